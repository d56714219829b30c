#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millstream_fuzz::formats::token_ids(bytes, millstream_fuzz::place()));
