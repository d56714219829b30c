#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millstream_fuzz::settings::plan_file(bytes, millstream_fuzz::place()));
