# Loads kvm-bridge's completion once qemu-kvm, or another of QEMU's names, is completed -*- shell-script -*-
#
# For packagers: install this file as /etc/bash_completion.d/kvm-bridge, which every interactive shell reads. What it does
# there is next to nothing. bash-completion has a file of its own for qemu-kvm, which would be loaded in place of ours.

# Names that people link to our qemu-kvm, and those that bash-completion's file is for.
_kvm_bridge_names=(qemu-kvm kvm qemu qemu-system-{i386,x86_64,aarch64,arm,riscv64,ppc64,s390x})

_kvm_bridge_load()
{
    local folder
    complete -r "${_kvm_bridge_names[@]}" 2>/dev/null
    unset -f _kvm_bridge_load
    unset _kvm_bridge_names
    for folder in /usr/share /usr/local/share; do
        [[ -e $folder/bash-completion/completions/kvm-bridge ]] || continue
        # shellcheck disable=SC1091
        source "$folder/bash-completion/completions/kvm-bridge"
        break
    done
    # Bash asks whoever is registered now, or who loads completions.
    { complete -p "${1##*/}" || complete -p -D; } &>/dev/null && return 124
    compopt -o bashdefault -o default
}
complete -F _kvm_bridge_load "${_kvm_bridge_names[@]}"
