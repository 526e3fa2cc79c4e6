# bash completion for kvm-bridge, and for qemu-kvm with it                       -*- shell-script -*-
#
# For packagers: install this file as PREFIX/share/bash-completion/completions/kvm-bridge. Not as completions/qemu-kvm:
# that file belongs to bash-completion. To have qemu-kvm completed for everybody, link it into /etc/bash_completion.d too.
#
# For users: bash-completion loads this file at the first completion of kvm-bridge, and from then on qemu-kvm is completed
# as well. To have that from the start, put this line into ~/.bashrc, with the PREFIX of your installation:
#
#     source /usr/share/bash-completion/completions/kvm-bridge
#
# Candidates come from 'kvm-bridge complete', which knows our options and asks QEMU about its own. Where it has none, they
# are those of whatever completed qemu-kvm before. bash-completion is not needed.

# The words up to the cursor, in $words: = and : divide none, and quotes are gone.
_kvm_bridge_words()
{
    local rest=${COMP_LINE:0:COMP_POINT} trimmed word i
    words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        trimmed=${rest#"${rest%%[![:blank:]]*}"}
        word=${COMP_WORDS[i]}
        word=${word:0:${#trimmed}}
        if ((i > 0)) && [[ $trimmed == "$rest" ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
        rest=${trimmed:${#word}}
    done
    words=("${words[@]//[\"\'\\]/}")
}

# Asks for candidates and puts those that fit into COMPREPLY, without what bash counts as words before this one. False if
# there is none.
_kvm_bridge_ask()
{
    local words typed kind text head='' before='' cut='' open='' files=1
    _kvm_bridge_words
    typed=${words[-1]}
    [[ $typed == *[=:]* && $COMP_WORDBREAKS == *[=:]* ]] && before=${typed%"${typed##*["${COMP_WORDBREAKS//[^=:]/}"]}"}
    # Within quotes nothing has to be quoted.
    cut=${COMP_LINE:0:COMP_POINT}
    cut=${cut//[!\"\']/}
    ((${#cut} % 2)) && open=1
    COMPREPLY=()
    while IFS=$'\t' read -r kind text _; do
        case $kind in
            h) head=$text && continue ;;
            f) files=0 && compopt -o bashdefault -o default && continue ;;
        esac
        text=$head$text
        [[ $text == "$typed"* ]] || continue
        [[ $text == --?* && $typed != -* && $text != *=* ]] && continue
        [[ $kind == p ]] && compopt -o nospace
        text=${text#"$before"}
        if [[ ! $open ]]; then
            printf -v text %q "$text"
            # A comma means nothing to the shell here.
            text=${text//\\,/,}
        fi
        COMPREPLY+=("$text")
    done < <(kvm-bridge complete -- "${words[@]}" 2>/dev/null)
    return $((${#COMPREPLY[@]} == 0 && files))
}

_kvm_bridge()
{
    _kvm_bridge_ask || COMPREPLY=()
}

_kvm_bridge_qemu()
{
    _kvm_bridge_ask "$@" && return
    COMPREPLY=()
    [[ -n $_kvm_bridge_theirs ]] || _kvm_bridge_take_over
    if [[ -n $_kvm_bridge_theirs ]]; then
        "$_kvm_bridge_theirs" "$@"
    else
        compopt -o bashdefault -o default
    fi
}

# The function that completes qemu-kvm but for us, in $_kvm_bridge_theirs.
_kvm_bridge_look()
{
    local spec
    spec=$(complete -p qemu-kvm 2>/dev/null)
    [[ $spec =~ \ -F\ ([^\ ]+) && ${BASH_REMATCH[1]} != _kvm_bridge* ]] && _kvm_bridge_theirs=${BASH_REMATCH[1]}
}

# Registers for qemu-kvm. Whoever is registered is kept, to be asked by us. If nobody is, bash-completion has to load its
# own first, by a name that is not ours: loaded later, for another of QEMU's names, that would take our place.
_kvm_bridge_take_over()
{
    local loader
    if ! _kvm_bridge_look && [[ -z $_kvm_bridge_theirs ]]; then
        for loader in _comp_load __load_completion; do
            declare -F $loader >/dev/null && $loader qemu && _kvm_bridge_look && break
        done
    fi
    complete -F _kvm_bridge_qemu qemu-kvm
    _kvm_bridge_linked
}

# QEMU's other names under which PATH leads to our qemu-kvm, by a link.
_kvm_bridge_linked()
{
    local shim name names=()
    shim=$(type -P qemu-kvm) || return 0
    mapfile -t names < <(compgen -c qemu-system-)
    for name in kvm "${names[@]}"; do
        [[ $(type -P "$name") -ef $shim ]] && complete -F _kvm_bridge_qemu "$name"
    done
    return 0
}

# Stands in for QEMU's other names where bash-completion is loaded after this file, until one of them is completed.
_kvm_bridge_other_name()
{
    complete -r "${1##*/}" "${_kvm_bridge_others[@]}" 2>/dev/null
    _kvm_bridge_take_over
    # Bash asks whoever is registered now.
    complete -p "${1##*/}" &>/dev/null && return 124
    compopt -o bashdefault -o default
}

# What is known already is kept where this file is read again.
_kvm_bridge_theirs=${_kvm_bridge_theirs-}
_kvm_bridge_others=("${_kvm_bridge_others[@]}")
_kvm_bridge_take_over
if [[ -z $_kvm_bridge_theirs ]]; then
    for _kvm_bridge_name in qemu qemu-system-i386 qemu-system-x86_64; do
        complete -p $_kvm_bridge_name &>/dev/null && continue
        _kvm_bridge_others+=("$_kvm_bridge_name")
        complete -F _kvm_bridge_other_name $_kvm_bridge_name
    done
    unset _kvm_bridge_name
fi
complete -F _kvm_bridge kvm-bridge kvm-bridge-helper
