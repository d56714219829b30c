#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    millstream_fuzz::let_panics_be_caught();
    millstream_fuzz::formats::sentencepiece(bytes);
});
