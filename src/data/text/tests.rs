use super::*;
use std::io::Write;

fn lines(text: Result<Text>) -> Result<Vec<String>> {
    let mut text = text?;
    let mut all = Vec::new();
    while let Some(line) = text.next_line()? {
        all.push(String::from_utf8_lossy(line).into_owned());
    }
    Ok(all)
}

fn packed(text: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text).unwrap();
    let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bz2.write_all(text).unwrap();
    // printf '1 1:2\n2 1:3\n' | xz, of xz 5.4.
    let xz = include_bytes!("../../../tests/texts/two_lines.xz").to_vec();
    [
        (".gz", gz.finish().unwrap()),
        (".bz2", bz2.finish().unwrap()),
        (".xz", xz),
    ]
}

#[test]
fn compression_is_recognized_and_damage_is_an_error() {
    let path = Path::new("text");
    let plain = b"1 1:2\n2 1:3\n";
    for (ending, bytes) in packed(plain) {
        let of = |bytes: &[u8]| lines(Text::of_bytes(path, bytes.to_vec()));
        assert_eq!(of(&bytes).unwrap(), ["1 1:2\n", "2 1:3\n"], "{ending}");
        // Several streams in a file, as by `cat`.
        let twice = [&bytes[..], &bytes].concat();
        assert_eq!(of(&twice).unwrap().len(), 4, "{ending}");
        // Truncated anywhere after the signature.
        for len in 6..bytes.len() {
            let error = of(&bytes[..len]).unwrap_err();
            assert_eq!(error.exit_code(), 65, "{len}: {error}");
            assert!(error.to_string().contains(ending), "{len}: {error}");
        }
        let mut flipped = bytes.clone();
        let middle = bytes.len() * 2 / 3;
        flipped[middle] ^= 0x10;
        assert_eq!(of(&flipped).unwrap_err().exit_code(), 65, "{ending}");
    }
}

#[test]
fn bytes_after_a_compressed_stream_are_handled_like_python() {
    let path = Path::new("text");
    for (ending, bytes) in packed(b"1 1:2\n2 1:3\n") {
        let of = |behind: &[&[u8]]| {
            let all = [&bytes[..], &behind.concat()].concat();
            lines(Text::of_bytes(path, all)).map(|lines| lines.len())
        };
        // Tapes and sectors are padded with zeros; xz pads to multiples of four.
        for zeros in [1, 4, 512, BUFFER + 1] {
            assert_eq!(of(&[&vec![0; zeros]]).unwrap(), 2, "{ending}");
            assert_eq!(of(&[&vec![0; zeros], &bytes]).unwrap(), 4, "{ending}");
        }
        // A truncated second stream is an error.
        for length in [1, 5, bytes.len() / 2, bytes.len() - 1] {
            let error = of(&[&bytes[..length]]).unwrap_err();
            assert_eq!(error.exit_code(), 65, "{ending}: {error}");
        }
        for junk in [&b"junk"[..], b"\0\0\0\0junk"] {
            match (ending, of(&[junk])) {
                (".gz", Err(error)) => {
                    let error = error.to_string();
                    assert!(error.contains("other bytes after its end"), "{error}");
                }
                (".gz", Ok(_)) => panic!("bytes behind a .gz are no text"),
                (_, read) => assert_eq!(read.unwrap(), 2, "{ending}"),
            }
        }
    }
}

#[test]
fn byte_order_marks_are_skipped_or_rejected() {
    let path = Path::new("text");
    let of = |bytes: &[u8]| lines(Text::of_bytes(path, bytes.to_vec()));
    assert_eq!(of(b"\xEF\xBB\xBF1 1:2\r\n").unwrap(), ["1 1:2\r\n"]);
    assert_eq!(of(b"\xEF\xBB").unwrap().len(), 1);
    assert!(of(b"").unwrap().is_empty());
    for bytes in [&b"\xFF\xFE1\0"[..], b"\xFE\xFF\x001"] {
        let error = of(bytes).unwrap_err().to_string();
        assert!(error.contains("UTF-16"), "{error}");
    }
}

#[test]
fn the_first_line_determines_the_format() {
    use TextKind::*;
    for (text, kind) in [
        (&b"1 1:0.5 3:2\n"[..], Libsvm),
        (b"# a comment\n\n-1 qid:3 1:2", Libsvm),
        (b"1:0.5 2:1\n", Libsvm),
        (b"1,2 4:1\n", Libsvm),
        (b"+1\t3:1\r\n", Libsvm),
        (b"+1\r\n", Libsvm),
        (b"a,b,label\n1,2,x\n", Table),
        (b"time:utc;b\n", Table),
        (b"BMI\n20\n", Table),
        (b"a\tb\n", Table),
        (b"1 2 3\n", Other),
        (b"dear reader\n", Other),
        (b"PK\x05\x06\0\0", Other),
        (b"", Other),
        (b"# nothing else", Other),
    ] {
        assert_eq!(
            TextKind::of(text),
            kind,
            "{:?}",
            String::from_utf8_lossy(text)
        );
        let mut text = Text::of_bytes(Path::new("text"), text.to_vec()).unwrap();
        assert_eq!(text.kind().unwrap(), kind);
    }
}

#[test]
fn peeking_does_not_consume() {
    let mut text = Text::of_bytes(Path::new("text"), b"one\ntwo\n".to_vec()).unwrap();
    assert_eq!(text.peek(|bytes| bytes.len() > 100).unwrap(), b"one\ntwo\n");
    assert_eq!(text.next_line().unwrap(), Some(&b"one\n"[..]));
    assert_eq!(text.peek(|bytes| bytes.len() > 100).unwrap(), b"two\n");
    assert_eq!(text.next_line().unwrap(), Some(&b"two\n"[..]));
    assert_eq!(text.line_number(), 2);
    assert_eq!(text.next_line().unwrap(), None);
}

#[cfg(unix)]
#[test]
fn folders_and_devices_are_rejected() {
    for (path, found) in [("/dev/zero", "a device"), ("/", "a folder")] {
        let error = open_text(Path::new(path), &Cancel::new())
            .map(drop)
            .unwrap_err();
        assert_eq!(error.exit_code(), 65);
        assert!(error.to_string().contains(found), "{error}");
    }
}
