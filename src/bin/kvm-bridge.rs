//! The management command; see `kvm_bridge::cli`.

fn main() -> std::process::ExitCode {
    kvm_bridge::cli::main()
}
