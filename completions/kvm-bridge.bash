# bash completion for kvm-bridge, and for the options that its qemu-kvm adds to QEMU's -*- shell-script -*-
#
# For packagers: install this file as PREFIX/share/bash-completion/completions/kvm-bridge. Not as completions/qemu-kvm:
# that file belongs to bash-completion. To have qemu-kvm completed for everybody, link it into /etc/bash_completion.d too.
#
# For users: bash-completion loads this file at the first completion of kvm-bridge, and from then on qemu-kvm's --bridge
# is completed as well. To have that from the start, put this line into ~/.bashrc, with the PREFIX of your installation:
#
#     source /usr/share/bash-completion/completions/kvm-bridge
#
# Candidates for QEMU's own options are those of whatever completed qemu-kvm before. bash-completion is not needed.

# Adds those of the candidates $2... that begin with $1, without what bash counts as words before this one: = and :
# divide words for it. Options are for who has typed a dash.
_kvm_bridge_reply()
{
    local typed=$1 candidate before=
    shift
    if [[ $typed == *[=:]* && $COMP_WORDBREAKS == *[=:]* ]]; then
        before=${typed%"${typed##*["${COMP_WORDBREAKS//[^=:]/}"]}"}
    fi
    for candidate; do
        [[ $candidate == --?* && $typed != -* ]] && continue
        printf -v candidate %q "$candidate"
        # A comma means nothing to the shell here.
        candidate=${candidate//\\,/,}
        if [[ $candidate == "$typed"* ]]; then
            COMPREPLY+=("${candidate#"$before"}")
            [[ $candidate == *= ]] && compopt -o nospace
        fi
    done
}

# The VMs that have addresses, as keys: name:alice.
_kvm_bridge_vms()
{
    kvm-bridge mac list 2>/dev/null | sed -nE 's/ +[0-9]+ +[0-9]+ +[0-9a-f:]{17}$//p' | uniq
}

# The bridges that there are, for a command ($1) that has not got one yet.
_kvm_bridge_bridges()
{
    local link
    [[ $1 == " "*" "* ]] && return
    for link in /sys/class/net/*/bridge; do
        [[ -d $link ]] && link=${link%/bridge} && echo "${link##*/}"
    done
}

# The values of the key $1, one a line.
_kvm_bridge_values()
{
    local link vm
    case $1 in
        uplink)
            printf '%s\n' auto none
            for link in /sys/class/net/*; do
                [[ $link == */lo || -d $link/bridge || -e $link/phy80211 || -e $link/tun_flags ]] && continue
                [[ $(<"$link/type") == 1 ]] && echo "${link##*/}"
            done
            ;;
        model) printf '%s\n' e1000 virtio-net-pci e1000e rtl8139 vmxnet3 usb-net ;;
        queues) printf '%s\n' auto ;;
        vhost) printf '%s\n' on off auto ;;
        keep | force | announce) printf '%s\n' on off ;;
        vm)
            _kvm_bridge_vms | while read -r vm; do
                # A comma in a value is written twice.
                [[ $vm == name:* && $vm != *\\* ]] && vm=${vm#name:} && echo "${vm//,/,,}"
            done
            ;;
    esac
}

# Completes the value of --bridge: $1 is what is typed of it, $2 what stands before it in the same word.
_kvm_bridge_nic()
{
    local value=$1 option=$2 head last key candidates=() link
    # A comma that is written twice divides nothing.
    local plain=${value//,,/__}
    last=${plain##*,}
    head=${value:0:${#plain}-${#last}}
    if [[ $plain != *,* ]]; then
        for link in /sys/class/net/*/bridge; do
            [[ -d $link ]] && link=${link%/bridge} && candidates+=("${link##*/}")
        done
    elif [[ $last == *=* ]]; then
        key=${last%%=*}
        mapfile -t candidates < <(_kvm_bridge_values "$key")
        head+=$key=
    else
        for key in uplink mac model queues vhost ifname id vm keep mtu force announce; do
            [[ ,$plain == *,$key=* ]] || candidates+=("$key=")
        done
    fi
    _kvm_bridge_reply "$option$value" "${candidates[@]/#/$option$head}"
}

# Completes an option of ours where one is being typed, and the value of one; false for all else. $1 is the word, $2 the
# one before.
_kvm_bridge_options()
{
    local dashes
    case $1 in
        -bridge=* | --bridge=*)
            _kvm_bridge_nic "${1#*=}" "${1%%=*}="
            return 0
            ;;
    esac
    case $2 in
        -bridge | --bridge)
            _kvm_bridge_nic "$1" ""
            return 0
            ;;
    esac
    # QEMU's options have one dash, and take two; so do ours, the other way round.
    dashes=--
    [[ $1 == -[!-]* ]] && dashes=-
    _kvm_bridge_reply "$1" ${dashes}bridge ${dashes}bridge-dry-run ${dashes}bridge-help
    return 1
}

# Splits the line up to the cursor at blanks alone.
_kvm_bridge_words()
{
    read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
    [[ ${COMP_LINE:0:COMP_POINT} == *[[:blank:]] ]] && words+=("")
}

_kvm_bridge_qemu()
{
    local words ours
    _kvm_bridge_words
    COMPREPLY=()
    _kvm_bridge_options "${words[-1]}" "${words[-2]}" && return
    ours=("${COMPREPLY[@]}")
    COMPREPLY=()
    [[ -n $_kvm_bridge_theirs ]] || _kvm_bridge_take_over
    if [[ -n $_kvm_bridge_theirs ]]; then
        "$_kvm_bridge_theirs" "$@"
    elif [[ ${words[-1]} != -* ]]; then
        compopt -o bashdefault -o default
    fi
    COMPREPLY+=("${ours[@]}")
}

_kvm_bridge()
{
    local words command="" word
    _kvm_bridge_words
    COMPREPLY=()
    for word in "${words[@]:1:${#words[@]}-2}"; do
        if [[ $word == -- && $command =~ ^\ (plan|doctor) ]]; then
            _kvm_bridge_options "${words[-1]}" "${words[-2]}" || compopt -o bashdefault -o default
            return
        fi
        [[ $word == -* ]] || command+=" $word"
    done
    case ${words[-2]} in
        --uplink)
            mapfile -t words < <(printf '%s\n' "${words[-1]}" && _kvm_bridge_values uplink)
            _kvm_bridge_reply "${words[@]}"
            return
            ;;
        --user)
            mapfile -t COMPREPLY < <(compgen -u -- "${words[-1]}")
            return
            ;;
        --tap | --mtu | --wait | --watch) return ;;
    esac
    # Names of bridges have no blanks.
    # shellcheck disable=SC2046
    case $command in
        "") _kvm_bridge_reply "${words[-1]}" status ip doctor up down plan install recover mac --help --version ;;
        " status"*) _kvm_bridge_reply "${words[-1]}" $(_kvm_bridge_bridges "$command") --json --help ;;
        " down"*) _kvm_bridge_reply "${words[-1]}" $(_kvm_bridge_bridges "$command") --force --json --help ;;
        " up"*)
            _kvm_bridge_reply "${words[-1]}" $(_kvm_bridge_bridges "$command") --uplink --mtu --tap --user --force \
                --save --json --help
            ;;
        " doctor"*)
            _kvm_bridge_reply "${words[-1]}" $(_kvm_bridge_bridges "$command") --user --watch --quick --json -- --help
            ;;
        " ip")
            mapfile -t words < <(printf '%s\n' "${words[-1]}" && _kvm_bridge_vms)
            _kvm_bridge_reply "${words[@]}" --wait --json --help
            ;;
        " ip "*) _kvm_bridge_reply "${words[-1]}" --wait --json --help ;;
        " recover") _kvm_bridge_reply "${words[-1]}" --json --help ;;
        " plan") _kvm_bridge_reply "${words[-1]}" --json -- --help ;;
        " install"*)
            if [[ ${words[-2]} == --allow ]]; then
                for word in /sys/class/net/*/bridge; do
                    [[ -d $word ]] && word=${word%/bridge} && _kvm_bridge_reply "${words[-1]}" "${word##*/}"
                done
            else
                _kvm_bridge_reply "${words[-1]}" --allow --link --uninstall --check --json --help
            fi
            ;;
        " mac") _kvm_bridge_reply "${words[-1]}" list set forget export import --help ;;
        " mac list") _kvm_bridge_reply "${words[-1]}" --json --help ;;
        " mac import")
            _kvm_bridge_reply "${words[-1]}" --json --help
            [[ ${words[-1]} == -* ]] || compopt -o bashdefault -o default
            ;;
        " mac set")
            mapfile -t words < <(printf '%s\n' "${words[-1]}" && _kvm_bridge_vms)
            _kvm_bridge_reply "${words[@]}" --nic --slot --json --help
            ;;
        " mac forget" | " mac export"*)
            mapfile -t words < <(printf '%s\n' "${words[-1]}" && _kvm_bridge_vms)
            _kvm_bridge_reply "${words[@]}" --json --help
            ;;
    esac
}

# The function that completes qemu-kvm but for us, in $_kvm_bridge_theirs.
_kvm_bridge_look()
{
    local spec
    spec=$(complete -p qemu-kvm 2>/dev/null)
    [[ $spec =~ \ -F\ ([^\ ]+) && ${BASH_REMATCH[1]} != _kvm_bridge* ]] && _kvm_bridge_theirs=${BASH_REMATCH[1]}
}

# Registers for qemu-kvm. Whoever is registered is kept, to be asked by us. If nobody is, bash-completion has to load its
# own first: loaded later, for another of QEMU's names, that would take our place.
_kvm_bridge_take_over()
{
    local loader
    if ! _kvm_bridge_look && [[ -z $_kvm_bridge_theirs ]]; then
        for loader in _comp_load __load_completion; do
            declare -F $loader >/dev/null && $loader qemu-kvm && _kvm_bridge_look && break
        done
    fi
    complete -F _kvm_bridge_qemu qemu-kvm
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
complete -F _kvm_bridge kvm-bridge
