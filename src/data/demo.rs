//! stub
/// o
#[derive(Default)]
pub struct DemoOptions {
    /// c
    pub classes: usize,
    /// s
    pub seed: u32,
}
impl DemoOptions {
    /// p
    pub fn photographs(&self) -> usize {
        0
    }
}
/// w
pub fn write_photographs(
    _d: &std::path::Path,
    _o: &DemoOptions,
    _p: &(dyn Fn(u64) + Sync),
) -> crate::Result<()> {
    todo!()
}
/// n
pub fn class_names(_c: usize) -> Vec<String> {
    vec![]
}
