#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvm_bridge::properties::lease(data));
