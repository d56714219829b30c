//! Packed values against the `gguf` package (`fixtures/make_blocks.py`), and what cannot be packed.

use packed::{Format, Matrix, PackError};
use safetensors::SafeTensors;

fn pack(format: Format, dims: [usize; 2], values: &[f32]) -> Result<Matrix, PackError> {
    Matrix::pack(format, "m", dims, values.to_vec())
}

fn unpacked(matrix: &Matrix) -> Vec<f32> {
    let [rows, columns] = matrix.dims();
    let mut values = vec![0.0; rows * columns];
    values.chunks_mut(columns).enumerate().for_each(|(i, row)| matrix.unpack_row(i, row));
    values
}

#[test]
fn blocks_are_those_of_gguf() {
    let file = include_bytes!("fixtures/blocks.safetensors");
    let file = SafeTensors::deserialize(file).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        file.tensor(name).unwrap().data().as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
    };
    let x = floats("x");
    let dims = [file.tensor("x").unwrap().shape()[0], file.tensor("x").unwrap().shape()[1]];
    for (format, name) in [(Format::Q8, "q8"), (Format::Q4, "q4")] {
        let matrix = pack(format, dims, &x).unwrap();
        let bytes = matrix.to_bytes();
        assert_eq!((bytes.len(), bytes.as_slice()), (matrix.n_bytes(), file.tensor(name).unwrap().data()), "{name}");
        assert_eq!(unpacked(&matrix), floats(&format!("{name}.values")), "{name}");
    }
}

/// Each value is as near as its format promises: half a unit of what it is rounded to.
#[test]
fn values_are_the_nearest() {
    let x: Vec<f32> = (0..7 * 64).map(|i| ((i * i) as f32 * 0.618).sin() * 3.0).collect();
    for format in Format::ALL {
        let matrix = pack(format, [7, 64], &x).unwrap();
        assert_eq!((matrix.format(), matrix.dims()), (format, [7, 64]));
        assert_eq!(matrix.n_bytes(), matrix.to_bytes().len());
        for (block, (found, wanted)) in unpacked(&matrix).chunks(32).zip(x.chunks(32)).enumerate() {
            let largest = wanted.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            for (found, wanted) in found.iter().zip(wanted) {
                let error = (found - wanted).abs();
                let most = match format {
                    Format::F32 => 0.0,
                    Format::F16 => wanted.abs() / 2048.0,
                    Format::Bf16 => wanted.abs() / 256.0,
                    // Half a step, and the factor's own rounding.
                    Format::Q8 => largest / 127.0 / 2.0 + largest / 2048.0,
                    // A whole step at the end where the 16th level would be.
                    Format::Q4 => largest / 8.0 * 1.001 + largest / 2048.0,
                };
                assert!(error <= most, "{format} block {block}: {found}, not {wanted}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for (format, columns, value, wanted) in [
        (Format::Q8, 33, 1.0, "rows of `m` have 33 values, but q8 packs 32 at a time"),
        (Format::Q4, 16, 1.0, "rows of `m` have 16 values, but q4 packs 32 at a time"),
        (Format::F16, 3, 1e5, "`m` has the value 100000, which f16 cannot hold"),
        (Format::Bf16, 3, f32::MAX, "which bf16 cannot hold"),
        (Format::Q8, 32, 1e7, "`m` has the value 10000000, which q8 cannot hold"),
        (Format::Q8, 32, f32::NAN, "`m` has the value NaN, which q8 cannot hold"),
        (Format::Q4, 32, -f32::INFINITY, "`m` has the value -inf, which q4 cannot hold"),
    ] {
        let mut values = vec![0.5; 2 * columns];
        values[columns + 1] = value;
        let error = pack(format, [2, columns], &values).unwrap_err().to_string();
        assert!(error.contains(wanted), "{format}: {error}");
    }
    for format in [Format::F32, Format::F16, Format::Bf16] {
        assert!(unpacked(&pack(format, [1, 1], &[f32::NAN]).unwrap())[0].is_nan(), "{format} keeps damage");
    }
}
