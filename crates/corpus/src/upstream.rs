//! The `tokenizers` library kept from taking the program down: it panics on files that are damaged in ways which it
//! takes for impossible (a template that names a token which it does not give, a character map that leads out of
//! itself, and more that fuzzing found).

use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `call` gives, and its panic as an error. The library keeps no state between calls but caches of results, so
/// that nothing half-done is met later.
pub(crate) fn caught<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("its tokenizer.json is damaged ({})", words.unwrap_or("no further word")).into())
    })
}

/// Whether a character map in the text of a `tokenizer.json` is as long as it says: the library reserves the memory for
/// that, up to 8 GB, before it looks. Beforehand, whether the text is JSON, of which the library's words are poorer.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn check(json: &str) -> Result<(), String> {
    let file: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    match are_whole(&file["normalizer"]) {
        true => Ok(()),
        false => Err("the normalizer's precompiled_charsmap is cut off or not in base64".to_owned()),
    }
}

/// A normalizer's map, or those of several in a sequence.
fn are_whole(normalizer: &Value) -> bool {
    let map = normalizer.get("precompiled_charsmap").is_none_or(|map| map.as_str().is_some_and(is_whole));
    map && normalizer["normalizers"].as_array().into_iter().flatten().all(are_whole)
}

/// SentencePiece's map in base64: four bytes with the length of a trie, little end first, and at least as many bytes.
fn is_whole(map: &str) -> bool {
    let digit = |digit: u8| match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    // Six digits hold 36 bits, the last four of them of the fifth byte.
    let bits = map.bytes().take(6).try_fold(0_u64, |bits, byte| Some(bits << 6 | u64::from(digit(byte)?)));
    let n_bytes = map.len() / 4 * 3;
    bits.is_some_and(|bits| map.len() >= 6 && n_bytes >= 4 + ((bits >> 4) as u32).swap_bytes() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_say_how_long_they_are() {
        // Of 8 and 9 bytes after the length, as Python's base64.b64encode writes them.
        let cases =
            [("CAAAAAECAwQFBgcI", true), ("CQAAAAECAwQFBgcI", false), ("AAAAAA==", true), ("", false), ("CA*", false)];
        for (map, wanted) in cases {
            assert_eq!(is_whole(map), wanted, "{map}");
            let json = format!(r#"{{"normalizer": {{"normalizers": [{{"precompiled_charsmap": "{map}"}}]}}}}"#);
            assert_eq!(check(&json).is_ok(), wanted, "{json}");
        }
        assert!(check("{").unwrap_err().contains("line 1"));
    }

    #[test]
    fn panics_are_errors() {
        assert_eq!(caught(|| Ok(7)).unwrap(), 7);
        let error = caught::<u32>(|| panic!("no {} here", "token")).unwrap_err();
        assert_eq!(error.to_string(), "its tokenizer.json is damaged (no token here)");
    }
}
