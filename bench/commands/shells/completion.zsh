#compdef bmdal-bench
# zsh completion of bmdal-bench; load it with: eval "$(bmdal-bench completion zsh)"
_bmdal_bench() {
    local candidate
    local -a found
    found=("${(@f)$(${~words[1]} completion --query zsh "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    for candidate in "${found[@]}"; do
        if [[ $candidate == *' ' ]]; then
            compadd -Q -- "${candidate% }"
        elif [[ -n $candidate ]]; then
            compadd -Q -S '' -- "$candidate"
        fi
    done
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u }
if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
    _bmdal_bench "$@"
else
    compdef _bmdal_bench bmdal-bench
fi
