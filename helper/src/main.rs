//! A drop-in for qemu-bridge-helper; its story is told in the library.

fn main() -> std::process::ExitCode {
    kvm_bridge_helper::main()
}
