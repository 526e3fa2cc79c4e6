#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvm_bridge_helper::properties::options(data));
