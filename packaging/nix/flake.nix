# Builds the programs for Nix: nix build ./packaging/nix (the repository is its source).
{
  description = "Puts a QEMU/KVM guest on the hypervisor's own network in one command";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs =
    { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      each = nixpkgs.lib.genAttrs systems;
    in
    {
      packages = each (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
        in
        {
          default = pkgs.rustPlatform.buildRustPackage {
            pname = "kvm-bridge";
            version = "0.2.0";
            src = ../..;
            cargoLock.lockFile = ../../Cargo.lock;
            cargoBuildFlags = [ "--workspace" "--bins" ];
            # They need root, and namespaces of their own: make check.
            doCheck = false;
            nativeBuildInputs = [ pkgs.installShellFiles ];
            postInstall = ''
              installManPage man/*.[158]
              installShellCompletion --zsh completions/_kvm-bridge
              installShellCompletion --bash --name kvm-bridge completions/kvm-bridge.bash
              installShellCompletion --fish completions/kvm-bridge.fish
              # A store has no capabilities: security.wrappers of NixOS gives them.
              mkdir -p $out/libexec
              mv $out/bin/kvm-bridge-helper $out/libexec/
            '';
            meta = {
              description = "Puts a QEMU/KVM guest on the hypervisor's own network in one command";
              license = with pkgs.lib.licenses; [ mit asl20 ];
              platforms = pkgs.lib.platforms.linux;
              mainProgram = "kvm-bridge";
            };
          };
        }
      );
    };
}
