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
# Candidates come from 'kvm-bridge complete', which knows our options and asks QEMU about its own. Where it gives no answer,
# they are those of whatever completed qemu-kvm before. bash-completion is not needed.

# A word without its quotes, in $plain; $quote is the one that is still open, and $inner what has been typed within it.
_kvm_bridge_unquote()
{
    local word=$1 char
    plain='' quote='' inner=''
    [[ $word == *[\"\'\\]* ]] || { plain=$word && return; }
    while [[ $word ]]; do
        char=${word:0:1} word=${word:1}
        if [[ $char == "$quote" ]]; then
            quote=''
            continue
        elif [[ ! $quote && $char == [\"\'] ]]; then
            quote=$char inner=''
            continue
        elif [[ $char == \\ && $quote != \' && $word ]]; then
            # Within quotes a backslash is one, but before these.
            [[ ! $quote || ${word:0:1} == [\$\`\"\\] ]] && char=${word:0:1} word=${word:1}
        fi
        plain+=$char inner+=$char
    done
}

# The words up to the cursor, in $words: = and : divide none, and quotes are gone. What bash will replace of the last one is
# in $replaced, and the quote that it is in, if any, in $quote.
_kvm_bridge_words()
{
    local rest=${COMP_LINE:0:COMP_POINT} trimmed word='' last i plain inner
    local -a raw=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        trimmed=${rest#"${rest%%[![:blank:]]*}"}
        last=$word
        word=${COMP_WORDS[i]}
        word=${word:0:${#trimmed}}
        if ((i > 0)) && [[ $trimmed == "$rest" ]]; then
            raw[-1]+=$word
        else
            raw+=("$word")
            last=''
        fi
        rest=${trimmed:${#word}}
    done
    # What divides words is not replaced, but for an @.
    [[ $word == *[!"$COMP_WORDBREAKS"]* || $word == @ ]] || word=''
    [[ $last == @ && $COMP_WORDBREAKS == *@* ]] && word=@$word
    _kvm_bridge_unquote "$word"
    replaced=$plain
    words=()
    for word in "${raw[@]}"; do
        _kvm_bridge_unquote "$word"
        words+=("$plain")
    done
    [[ ! $quote ]] || replaced=$inner
}

# Asks for candidates and puts those that fit into COMPREPLY, without what bash counts as words before this one. False if
# there is no answer: one without candidates says that nothing fits.
_kvm_bridge_ask()
{
    local words replaced quote typed kind text head='' before='' answered=''
    _kvm_bridge_words
    typed=${words[-1]}
    before=${typed%"$replaced"}
    COMPREPLY=()
    while IFS=$'\t' read -r kind text _; do
        case $kind in
            h) head=$text answered=1 && continue ;;
            f) compopt -o bashdefault -o default && continue ;;
        esac
        text=$head$text
        [[ $text == "$typed"* ]] || continue
        [[ $text == --?* && $typed != -* && $text != *=* ]] && continue
        [[ $kind == p ]] && compopt -o nospace
        text=${text#"$before"}
        case $quote in
            \') text=${text//\'/\'\\\'\'} ;;
            \") text=${text//\\/\\\\} text=${text//\"/\\\"} text=${text//\$/\\\$} text=${text//\`/\\\`} ;;
            *)
                printf -v text %q "$text"
                # A comma means nothing to the shell here.
                text=${text//\\,/,}
                ;;
        esac
        COMPREPLY+=("$text")
    done < <(kvm-bridge complete -- "${words[@]}" 2>/dev/null)
    [[ $answered ]]
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

# QEMU's other names under which PATH leads to our qemu-kvm, by a link. A distribution's own qemu-kvm has no --bridge.
_kvm_bridge_linked()
{
    local shim name names=()
    shim=$(type -P qemu-kvm) || return 0
    [[ $(kvm-bridge complete -- qemu-kvm --bridge 2>/dev/null) == *--bridge* ]] || return 0
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

# bash-completion reads this file for each name that it is linked to, and again until the name has a completion: what is not
# ours has bash's own.
_kvm_bridge_name=${BASH_SOURCE[0]##*/}
if [[ $_kvm_bridge_name == kvm || $_kvm_bridge_name == qemu-* ]] && ! complete -p "$_kvm_bridge_name" &>/dev/null; then
    complete -o bashdefault -o default "$_kvm_bridge_name"
fi
unset _kvm_bridge_name
