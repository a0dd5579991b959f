# fish completion of bmdal-bench; load it with: bmdal-bench completion fish | source
function __bmdal_bench
    set -l program (commandline -cpo)[1]
    eval $program completion --query fish (string escape -- (commandline -cp)) 2>/dev/null
end
complete -c bmdal-bench -f -a '(__bmdal_bench)'
