# fish completion for kvm-bridge, and for qemu-kvm with it
#
# For packagers: install this file as PREFIX/share/fish/vendor_completions.d/kvm-bridge.fish. To have qemu-kvm completed
# for everybody from the start, link it to qemu-kvm.fish there, and to those of other names that lead to it.
#
# For users: fish loads this file at the first completion of kvm-bridge, and from then on qemu-kvm is completed as well. To
# have that from the start, put this line into ~/.config/fish/config.fish, with the PREFIX of your installation:
#
#     source /usr/share/fish/vendor_completions.d/kvm-bridge.fish
#
# Candidates come from 'kvm-bridge complete', which knows our options and asks QEMU about its own.

function __kvm_bridge_ask
    set -l head ''
    # Without its quotes, the last of which may be open still.
    set -l typed (commandline -ct | string replace -ra -- '\\\\(.)|["\']' '$1' | string collect)
    for line in (kvm-bridge complete -- (commandline -opc) "$typed" 2>/dev/null)
        set -l parts (string split \t -- $line)
        switch $parts[1]
            case h
                set head $parts[2]
            case f
                __fish_complete_path "$typed"
            case w p
                printf '%s%s\t%s\n' $head $parts[2] $parts[3]
        end
    end
end

complete -c kvm-bridge -f -a '(__kvm_bridge_ask)'
complete -c kvm-bridge-helper -f -a '(__kvm_bridge_ask)'
complete -c qemu-kvm -f -a '(__kvm_bridge_ask)'

# QEMU's other names under which PATH leads to our qemu-kvm, by a link. A distribution's own qemu-kvm has no --bridge.
set -l shim (command -s qemu-kvm)
if test -n "$shim"; and kvm-bridge complete -- qemu-kvm --bridge 2>/dev/null | string match -q '*--bridge*'
    set shim (builtin realpath $shim)
    for other in $PATH/qemu-system-* $PATH/kvm
        if test -x $other; and test (builtin realpath $other) = $shim
            complete -c (string split / $other)[-1] -f -a '(__kvm_bridge_ask)'
        end
    end
end
