# bash completion of bmdal-bench; load it with: eval "$(bmdal-bench completion bash)"
_bmdal_bench() {
    local candidate program
    eval "program=${COMP_WORDS[0]}" # a path that begins with ~
    COMPREPLY=()
    while IFS= read -r candidate; do
        [ -n "$candidate" ] && COMPREPLY+=("$candidate")
    done < <("$program" completion --query bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
}
complete -o nospace -F _bmdal_bench bmdal-bench
