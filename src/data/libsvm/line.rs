//! Parser of a line of LIBSVM's text.

use crate::data::dataset::usable;
use crate::data::labels::LabelValue;
use crate::design::rows::is_usable;

/// Limit on the number of features: a row of 64 MiB.
pub const MAX_FEATURES: usize = 16 << 20;

/// The label and query of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The text of the label; `None` if the line begins with a value.
    pub label: Option<&'a str>,
    /// Whether there is a `qid:`, as in files for ranking.
    pub query: bool,
}

/// What was found, and what was expected.
pub type Refusal = (String, &'static str);

/// Parse `LABEL [qid:N] INDEX:VALUE ... [# comment]`; `None` for a blank line or a comment. `value`
/// is called with each index, ascending and at most [`MAX_FEATURES`], and its value, at most 10¹⁵.
///
/// Words are separated by ASCII white space. A comment may be in any encoding.
///
/// # Errors
/// The first invalid word, and what was expected.
pub fn parse_line<'a>(
    line: &'a [u8],
    value: &mut dyn FnMut(usize, f64),
) -> Result<Option<Head<'a>>, Refusal> {
    let end = line.iter().position(|&byte| byte == b'#');
    let line = &line[..end.unwrap_or(line.len())];
    let Ok(text) = std::str::from_utf8(line) else {
        let found = quoted(&String::from_utf8_lossy(line));
        return Err((found, "text in UTF-8 before the comment"));
    };
    let is_blank = |c: char| c.is_ascii_whitespace() || c == '\x0B';
    let mut words = text
        .split(is_blank)
        .filter(|word| !word.is_empty())
        .peekable();
    let Some(first) = words.peek() else {
        return Ok(None);
    };
    let label = if first.contains(':') {
        None
    } else {
        words.next()
    };
    let is_query = |word: &&str| word.strip_prefix("qid:").is_some_and(is_whole);
    let query = words.next_if(is_query).is_some();
    let mut next = 0;
    for word in words {
        let pair = word
            .split_once(':')
            .and_then(|(index, number)| Some((index.parse::<usize>().ok()?, number.parse().ok()?)));
        let (index, number): (usize, f64) = pair.ok_or_else(|| (quoted(word), "INDEX:VALUE"))?;
        if index < next || index > MAX_FEATURES {
            let expected = "indices that ascend, each once, up to 16777216";
            return Err((quoted(word), expected));
        }
        if !is_usable(number as f32) {
            return Err((quoted(word), usable(number)));
        }
        next = index + 1;
        value(index, number);
    }
    Ok(Some(Head { label, query }))
}

/// The value of a label that is a whole number, such as `1`, `+1`, `-1` or `1.0`.
///
/// # Errors
/// What was found, and what was expected.
pub fn whole_label(label: Option<&str>) -> Result<i64, Refusal> {
    let Some(label) = label else {
        let expected = "a label, a whole number, at the start of the line";
        return Err(("a value first".to_string(), expected));
    };
    if label.contains(',') {
        let expected = "one label: rows of several classes at once are not fitted";
        return Err((quoted(label), expected));
    }
    match LabelValue::parse(label.as_bytes()) {
        Ok(LabelValue::Number(number)) => Ok(number),
        _ => {
            let expected = "a whole number, the label, at the start of the line";
            Err((quoted(label), expected))
        }
    }
}

fn is_whole(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn quoted(word: &str) -> String {
    format!("{:?}", word.chars().take(40).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Parsed<'a> = Result<Option<(Head<'a>, Vec<(usize, f64)>)>, Refusal>;

    fn parse(line: &[u8]) -> Parsed<'_> {
        let mut values = Vec::new();
        let head = parse_line(line, &mut |index, value| values.push((index, value)))?;
        Ok(head.map(|head| (head, values)))
    }

    #[test]
    fn valid_lines_are_parsed() {
        let of = |label, query, values: &[(usize, f64)]| {
            Ok(Some((Head { label, query }, values.to_vec())))
        };
        assert_eq!(
            parse(b"+1 1:.5 3:-2e0\n"),
            of(Some("+1"), false, &[(1, 0.5), (3, -2.0)])
        );
        assert_eq!(
            parse(b"1.0\t0:1\x0C\x0B2:5.\r\n"),
            of(Some("1.0"), false, &[(0, 1.0), (2, 5.0)])
        );
        assert_eq!(
            parse(b"3 qid:17 1:2 # doc \xFF\xFE"),
            of(Some("3"), true, &[(1, 2.0)])
        );
        assert_eq!(parse(b"-1"), of(Some("-1"), false, &[]));
        assert_eq!(parse(b"2#5:1"), of(Some("2"), false, &[]));
        assert_eq!(parse(b"1:2 2:3"), of(None, false, &[(1, 2.0), (2, 3.0)]));
        for nothing in [&b""[..], b" \r\n", b"# \xE9t\xE9", b"\x0C#"] {
            assert_eq!(parse(nothing), Ok(None));
        }
    }

    #[test]
    fn invalid_words_are_named() {
        for (line, found, expected) in [
            (&b"1 2:1 2:1"[..], "2:1", "ascend"),
            (b"1 3:1 2:1", "2:1", "ascend"),
            (b"1 16777217:1", "16777217:1", "16777216"),
            (
                b"1 99999999999999999999:1",
                "99999999999999999999:1",
                "INDEX",
            ),
            (b"1 1:nan", "1:nan", "1e15"),
            (b"1 1:inf", "1:inf", "1e15"),
            (b"1 1:2e15", "1:2e15", "1e15"),
            (b"1 1:1e300", "1:1e300", "1e15"),
            (b"1 1=3", "1=3", "INDEX:VALUE"),
            (b"1 -1:3", "-1:3", "INDEX:VALUE"),
            (b"1 1:", "1:", "INDEX:VALUE"),
            (b"1 1:2 qid:3", "qid:3", "INDEX:VALUE"),
            (b"1 qid:x 1:2", "qid:x", "INDEX:VALUE"),
            (b"1 1:1\0", "1:1\\0", "INDEX:VALUE"),
            (b"\xFF\xFE 1:1", "\u{FFFD}", "UTF-8"),
        ] {
            let refusal = parse(line).unwrap_err();
            assert!(
                refusal.0.contains(found) && refusal.1.contains(expected),
                "{refusal:?}"
            );
        }
        for (label, found, expected) in [
            (Some("1,2"), "1,2", "one label"),
            (Some("1.5"), "1.5", "whole"),
            (Some("nan"), "nan", "whole"),
            (Some("1e15"), "1e15", "whole"),
            (Some("rose"), "rose", "whole"),
            (None, "value first", "label"),
        ] {
            let refusal = whole_label(label).unwrap_err();
            assert!(
                refusal.0.contains(found) && refusal.1.contains(expected),
                "{refusal:?}"
            );
        }
        for (label, number) in [("+1", 1), ("-1.0", -1), ("1e3", 1000), ("-0", 0)] {
            assert_eq!(whole_label(Some(label)), Ok(number));
        }
    }

    proptest! {
        /// For all separators and line ends.
        #[test]
        fn round_trip_preserves_label_and_values(
            label in -1_000_000i64..1_000_000,
            values in prop::collection::btree_map(0usize..=MAX_FEATURES, -1e15f64..1e15, 0..20),
            blank in prop::sample::select(vec![" ", "\t", "  ", "\x0C"]),
            end in prop::sample::select(vec!["\n", "\r\n", "", " # comment: 1:2 \n"]),
        ) {
            let mut line = label.to_string();
            for (index, value) in &values {
                line += &format!("{blank}{index}:{value:?}");
            }
            line += end;
            let (head, found) = parse(line.as_bytes()).unwrap().unwrap();
            prop_assert_eq!(whole_label(head.label), Ok(label));
            prop_assert_eq!(found, values.into_iter().collect::<Vec<_>>());
        }
    }
}
