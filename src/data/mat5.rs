//! stub
/// e
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct Mat5Error;
/// r
pub fn read_integers(_bytes: &[u8], _variable: &str) -> Result<Vec<i64>, Mat5Error> {
    Err(Mat5Error)
}
