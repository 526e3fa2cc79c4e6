# fish completion for kvm-bridge, and for the options that its qemu-kvm adds to QEMU's
#
# For packagers: install this file as PREFIX/share/fish/vendor_completions.d/kvm-bridge.fish. To have qemu-kvm completed
# for everybody from the start, link it to qemu-kvm.fish there.
#
# For users: fish loads this file at the first completion of kvm-bridge, and from then on qemu-kvm's --bridge is completed
# as well. To have that from the start, put this line into ~/.config/fish/config.fish, with the PREFIX of your
# installation:
#
#     source /usr/share/fish/vendor_completions.d/kvm-bridge.fish

# The values of the key $argv[1], one a line.
function __kvm_bridge_values
    switch $argv[1]
        case uplink
            printf '%s\n' auto none
            for link in /sys/class/net/*
                set -l name (string split / $link)[-1]
                test $name = lo -o -d $link/bridge -o -e $link/phy80211 -o -e $link/tun_flags && continue
                test "$(cat $link/type 2>/dev/null)" = 1 && echo $name
            end
        case model
            printf '%s\n' e1000 virtio-net-pci e1000e rtl8139 vmxnet3 usb-net
        case queues
            echo auto
        case vhost
            printf '%s\n' on off auto
        case keep force announce
            printf '%s\n' on off
        case vm
            # A comma in a value is written twice.
            __kvm_bridge_vms | string match -r -g '^name:([^\\\\]+)$' | string replace -a , ,,
    end
end

# The VMs that have addresses, as keys: name:alice.
function __kvm_bridge_vms
    kvm-bridge mac list 2>/dev/null | string match -r -g '^(.*?) +\d+ +\d+ +[0-9a-f:]{17}$' | uniq
end

# Completes the value of --bridge.
function __kvm_bridge_nic
    set -l value (commandline -ct | string replace -r '^--?bridge=' '')
    # A comma that is written twice divides nothing.
    set -l parts (string replace -a ,, __ -- $value | string split ,)
    set -l last "$parts[-1]"
    set -l head (string sub -l (math (string length -- "$value") - (string length -- "$last")) -- "$value")
    if test (count $parts) -lt 2
        for link in /sys/class/net/*/bridge
            printf '%s\tBridge\n' (string split / $link)[-2]
        end
    else if string match -q '*=*' -- $last
        set -l key (string split -m 1 = -- $last)[1]
        for candidate in (__kvm_bridge_values $key)
            printf '%s\tValue\n' $head$key=$candidate
        end
    else
        for key in uplink mac model queues vhost ifname id vm keep mtu force announce
            string match -q "$key=*" -- $parts || printf '%s\tKey\n' $head$key=
        end
    end
end

# Whether the words of kvm-bridge so far, options apart, are these.
function __kvm_bridge_is_at
    set -l words (commandline -opc | string match -v -- '-*')
    test "$words[2..]" = "$argv"
end

# Whether one of these commands is among the words so far, before any --.
function __kvm_bridge_has
    for word in (commandline -opc)[2..]
        test "$word" = -- && return 1
        contains -- $word $argv && return 0
    end
    return 1
end

# The bridges that there are.
function __kvm_bridge_bridges
    for link in /sys/class/net/*/bridge
        echo (string split / $link)[-2]
    end
end

# Whether the arguments of 'kvm-bridge plan --' or 'doctor --' are being typed, among which fish completes no options by itself.
function __kvm_bridge_is_planning
    set -l words (commandline -opc)
    string match -qr ' (plan|doctor)( [^ ]+)* -- ' -- "$words "
end

function __kvm_bridge_planned
    set -l option (string match -r '^--?bridge=' -- (commandline -ct))
    if test -n "$option"
        string replace -r '^' -- $option (__kvm_bridge_nic)
    else if string match -qr '^--?bridge$' -- (commandline -opc)[-1]
        __kvm_bridge_nic
    else if string match -q -- '-*' (commandline -ct)
        printf '%s\n' --bridge --bridge-dry-run --bridge-help
    else
        __fish_complete_path (commandline -ct)
    end
end

complete -c kvm-bridge -f
complete -c kvm-bridge -n __kvm_bridge_is_planning -a '(__kvm_bridge_planned)'
complete -c kvm-bridge -n '__kvm_bridge_is_at plan; or __kvm_bridge_has doctor' -a -- -d 'The arguments for qemu-kvm'
complete -c kvm-bridge -s h -l help -d 'Print help'
complete -c kvm-bridge -n '__kvm_bridge_is_at' -s V -l version -d 'Print version'
complete -c kvm-bridge -n '__kvm_bridge_is_at' -a status -d 'Show the bridges, and what is on them'
complete -c kvm-bridge -n '__kvm_bridge_is_at' -a ip -d 'Print the addresses of a guest'
complete -c kvm-bridge -n '__kvm_bridge_is_at' -a doctor -d 'Look for what keeps guests off the network'
complete -c kvm-bridge -n '__kvm_bridge_is_at' -a up -d 'Make a bridge that stays'
complete -c kvm-bridge -n '__kvm_bridge_is_at' -a down -d 'Take a bridge back'
complete -c kvm-bridge -n '__kvm_bridge_is_at' -a plan -d 'Print what qemu-kvm would do'
complete -c kvm-bridge -n '__kvm_bridge_is_at' -a install -d 'Set up what users need who are not root'
complete -c kvm-bridge -n '__kvm_bridge_is_at' -a recover -d 'Take back what a killed run left'
complete -c kvm-bridge -n '__kvm_bridge_is_at' -a mac -d 'The MAC addresses that VMs keep'
complete -c kvm-bridge -n '__kvm_bridge_is_at install' -l allow -x -d 'Allow a bridge to everybody or a user'
complete -c kvm-bridge -n '__kvm_bridge_is_at install' -l link -d 'Make a link to qemu-kvm'
complete -c kvm-bridge -n '__kvm_bridge_is_at install' -l uninstall -d 'Take back what was made'
complete -c kvm-bridge -n '__kvm_bridge_is_at install' -l check -d 'Say what is missing'
complete -c kvm-bridge -n '__kvm_bridge_is_at mac' -a list -d 'List VMs and their MAC addresses'
complete -c kvm-bridge -n '__kvm_bridge_is_at mac' -a set -d 'Give a VM an address'
complete -c kvm-bridge -n '__kvm_bridge_is_at mac' -a forget -d 'Forget a VM'
for command in status down up doctor
    complete -c kvm-bridge -n "__kvm_bridge_is_at $command" -a '(__kvm_bridge_bridges)'
end
complete -c kvm-bridge -n '__kvm_bridge_is_at ip' -a '(__kvm_bridge_vms)'
complete -c kvm-bridge -n '__kvm_bridge_has status ip doctor up down plan install recover list set forget export import' -l json -d 'Print JSON'
complete -c kvm-bridge -n '__kvm_bridge_has ip' -l wait -x -d 'Watch its port for so many seconds'
complete -c kvm-bridge -n '__kvm_bridge_has doctor up' -l user -x -a '(__fish_complete_users)' -d 'The user'
complete -c kvm-bridge -n '__kvm_bridge_has doctor' -l watch -x -d 'How long to watch guests'
complete -c kvm-bridge -n '__kvm_bridge_has doctor' -l quick -d 'Ask and watch nobody'
complete -c kvm-bridge -n '__kvm_bridge_has up' -l uplink -x -a '(__kvm_bridge_values uplink)' -d 'Its port to the network'
complete -c kvm-bridge -n '__kvm_bridge_has up' -l mtu -x -d 'Its MTU'
complete -c kvm-bridge -n '__kvm_bridge_has up' -l tap -x -d 'A persistent TAP'
complete -c kvm-bridge -n '__kvm_bridge_has up' -l save -d 'Write it into the configuration'
complete -c kvm-bridge -n '__kvm_bridge_has up down' -l force -d 'Do it all the same'
complete -c kvm-bridge -n '__kvm_bridge_is_at mac' -a export -d 'Print addresses as JSON'
complete -c kvm-bridge -n '__kvm_bridge_is_at mac' -a import -d 'Take over what export printed'
complete -c kvm-bridge -n '__kvm_bridge_is_at mac set' -l nic -x -d 'Place of the network card'
complete -c kvm-bridge -n '__kvm_bridge_is_at mac set' -l slot -x -d 'Slot'
complete -c kvm-bridge -n '__kvm_bridge_is_at mac set' -a '(__kvm_bridge_vms)'
complete -c kvm-bridge -n '__kvm_bridge_is_at mac export' -a '(__kvm_bridge_vms)'
complete -c kvm-bridge -n '__kvm_bridge_is_at mac import' -F
complete -c kvm-bridge -n '__kvm_bridge_is_at mac forget' -a '(__kvm_bridge_vms)'

complete -c qemu-kvm -o bridge -x -a '(__kvm_bridge_nic)'
complete -c qemu-kvm -o bridge-dry-run
complete -c qemu-kvm -o bridge-help
complete -c qemu-kvm -l bridge -x -a '(__kvm_bridge_nic)' -d 'A network card on a bridge'
complete -c qemu-kvm -l bridge-dry-run -d 'Print the commands, change nothing'
complete -c qemu-kvm -l bridge-help -d 'Print help on --bridge'
