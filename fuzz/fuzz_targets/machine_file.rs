#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millstream_fuzz::settings::machine_file(bytes, millstream_fuzz::place()));
