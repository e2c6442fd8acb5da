//! Checkpoint files that were made to do harm: refused with a reason, whatever they announce.

use plateau_lab::checkpoint::parse_tensors;

/// A safetensors file: the header's length, the header, the data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(std::iter::repeat_n(0, data));
    bytes
}

fn tensor(kind: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#"{{"dtype":"{kind}","shape":[{shape}],"data_offsets":[{from},{to}]}}"#)
}

#[test]
fn case_51_files_that_lie_about_themselves_are_refused() {
    let one = |entry: String, data| file(&format!(r#"{{"a":{entry}}}"#), data);
    let two = |first: String, second: String, data| file(&format!(r#"{{"a":{first},"b":{second}}}"#), data);
    let cases = [
        ("nothing at all", Vec::new()),
        ("a header of 2^63 bytes", [(1u64 << 63).to_le_bytes().as_slice(), b"{}"].concat()),
        ("a header of 100 GB", [100_000_000_000u64.to_le_bytes().as_slice(), b"{}"].concat()),
        ("a header that ends beyond the file", [64u64.to_le_bytes().as_slice(), b"{}"].concat()),
        ("a header that is no JSON", file("{", 0)),
        ("a header that is no table", file("[]", 0)),
        ("a header nested a thousand deep", file(&"{\"a\":".repeat(1000), 0)),
        ("data beyond the end", one(tensor("F32", "2", 0, 8), 4)),
        ("data that nobody names", one(tensor("F32", "1", 0, 4), 8)),
        ("offsets that run backwards", one(tensor("F32", "1", 4, 0), 4)),
        ("offsets beyond 2^63", one(tensor("F32", "1", u64::MAX - 4, u64::MAX), 4)),
        ("a shape that overflows", one(tensor("F32", "9223372036854775807, 9223372036854775807", 0, 4), 4)),
        ("a shape whose bytes overflow", one(tensor("F64", "4611686018427387904", 0, 8), 8)),
        ("a shape of other size than its data", one(tensor("F32", "3", 0, 8), 8)),
        ("a negative extent", one(tensor("F32", "-1", 0, 4), 4)),
        ("tensors that overlap", two(tensor("F32", "2", 0, 8), tensor("F32", "2", 4, 12), 12)),
        ("a hole between tensors", two(tensor("F32", "1", 0, 4), tensor("F32", "1", 8, 12), 12)),
        ("a type that is never written", one(tensor("BF16", "2", 0, 4), 4)),
        ("a type that does not exist", one(tensor("F1024", "1", 0, 128), 128)),
    ];
    for (what, bytes) in cases {
        let problem = match parse_tensors(&bytes) {
            Ok(tensors) => panic!("{what}: read as {tensors:?}"),
            Err(problem) => problem,
        };
        assert!(!problem.is_empty() && problem.len() < 1000, "{what}: {problem}");
    }
}

#[test]
fn what_is_well_formed_is_read() {
    let header = format!(
        r#"{{"__metadata__":{{"k":"v"}},"a":{},"b":{},"c":{}}}"#,
        tensor("F32", "2, 2", 0, 16),
        tensor("F64", "1", 16, 24),
        tensor("F32", "", 24, 28)
    );
    let mut found = match parse_tensors(&file(&header, 28)) {
        Ok(found) => found,
        Err(problem) => panic!("{problem}"),
    };
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let shapes: Vec<(&str, &[usize])> =
        found.iter().map(|(name, tensor)| (name.as_str(), tensor.dims())).collect();
    assert_eq!(shapes, [("a", [2, 2].as_slice()), ("b", [1].as_slice()), ("c", [].as_slice())]);
}
