//! OpenBLAS, a rival that nobody needs to have: loaded at run time where the system has it.

use std::env;
use std::ffi::{CStr, c_char, c_int};

use flowreg::linalg::mat::{MatMut, MatRef};
use libloading::Library;

/// Names a library file instead of the system's, such as the newer one inside NumPy's wheel.
const VARIABLE: &str = "FLOWREG_OPENBLAS";
/// What the system may call it.
const NAMES: [&str; 3] = ["libopenblas.so.0", "libopenblas.so", "libopenblas.dylib"];

/// `cblas_sgemm` with integers `I`: order, transpositions, m, n, k, alpha, A, lda, B, ldb,
/// beta, C, ldc.
#[rustfmt::skip]
type Sgemm<I> = unsafe extern "C" fn(
    c_int, c_int, c_int, I, I, I, f32, *const f32, I, *const f32, I, f32, *mut f32, I,
);
/// `cblas_ssyrk`: order, triangle, transposition, n, k, alpha, A, lda, beta, C, ldc.
#[rustfmt::skip]
type Ssyrk<I> = unsafe extern "C" fn(
    c_int, c_int, c_int, I, I, f32, *const f32, I, f32, *mut f32, I,
);

/// cblas.h's row-major order, transpositions and lower triangle.
const ROW_MAJOR: c_int = 101;
const AS_STORED: c_int = 111;
const TRANSPOSED: c_int = 112;
const LOWER: c_int = 122;

/// Its products.
#[derive(Clone, Copy)]
pub struct OpenBlas {
    functions: Functions,
}

/// The two builds that exist: sizes in 32 bits, as distributions have it, or in 64.
#[derive(Clone, Copy)]
enum Functions {
    Bits32(Sgemm<c_int>, Ssyrk<c_int>),
    Bits64(Sgemm<i64>, Ssyrk<i64>),
}

impl OpenBlas {
    /// Load it for so many threads and print its version and the kernels it chose, or why it
    /// is absent.
    pub fn load(threads: usize) -> Option<OpenBlas> {
        let named = env::var(VARIABLE).ok();
        let names = match &named {
            Some(file) => vec![file.as_str()],
            None => NAMES.to_vec(),
        };
        // SAFETY: OpenBLAS's initialisers start threads and read the environment, no more;
        // a file that `FLOWREG_OPENBLAS` names is the caller's to vouch for.
        let library = names
            .iter()
            .find_map(|name| unsafe { Library::new(*name) }.ok());
        let Some(library) = library else {
            println!(
                "OpenBLAS: none as {} ({VARIABLE} names a file)",
                names.join(", ")
            );
            return None;
        };
        // Never unloaded: its threads run until the end.
        let found = OpenBlas::of(Box::leak(Box::new(library)), threads);
        if found.is_none() {
            println!("OpenBLAS: {} lacks cblas_sgemm", names.join(", "));
        }
        found
    }

    fn of(library: &'static Library, threads: usize) -> Option<OpenBlas> {
        // The builds inside Python's wheels rename everything.
        let (prefix, suffix) = [("", ""), ("scipy_", "64_"), ("scipy_", "")]
            .into_iter()
            .find(|(prefix, suffix)| {
                let name = format!("{prefix}cblas_sgemm{suffix}");
                // SAFETY: only asked whether it exists.
                unsafe { library.get::<*const ()>(&*name) }.is_ok()
            })?;
        // SAFETY: the types are those of OpenBLAS's cblas.h, whose integers have 64 bits in
        // the builds that say so in their names.
        unsafe {
            let name = |name: &str| format!("{prefix}{name}{suffix}");
            let text = |of: &str| -> Option<String> {
                let text = library
                    .get::<unsafe extern "C" fn() -> *const c_char>(&*name(of))
                    .ok()?;
                Some(CStr::from_ptr(text()).to_string_lossy().trim().to_string())
            };
            let set =
                library.get::<unsafe extern "C" fn(c_int)>(&*name("openblas_set_num_threads"));
            set.ok()?(threads as c_int);
            let (sgemm, ssyrk) = (name("cblas_sgemm"), name("cblas_ssyrk"));
            let functions = match suffix {
                "" => Functions::Bits32(*library.get(&*sgemm).ok()?, *library.get(&*ssyrk).ok()?),
                _ => Functions::Bits64(*library.get(&*sgemm).ok()?, *library.get(&*ssyrk).ok()?),
            };
            println!(
                "OpenBLAS: {}, kernels for {}",
                text("openblas_get_config").unwrap_or_default(),
                text("openblas_get_corename").unwrap_or_default()
            );
            if let Ok(core) = env::var("OPENBLAS_CORETYPE") {
                println!(
                    "OpenBLAS: OPENBLAS_CORETYPE={core} chose them; unset it for its own choice"
                );
            }
            Some(OpenBlas { functions })
        }
    }

    /// `C = A Bᵀ`, A m x k, B n x k.
    pub fn a_bt(self, a: MatRef, b: MatRef, c: MatMut) {
        assert_eq!((c.cols(), a.cols()), (b.rows(), b.cols()), "B's shape");
        self.product(a, b, TRANSPOSED, c);
    }

    /// `C = A B`, A m x k, B k x n.
    pub fn a_b(self, a: MatRef, b: MatRef, c: MatMut) {
        assert_eq!((a.cols(), c.cols()), (b.rows(), b.cols()), "B's shape");
        self.product(a, b, AS_STORED, c);
    }

    fn product(self, a: MatRef, b: MatRef, b_is: c_int, mut c: MatMut) {
        let [m, n, k, ldb] = [c.rows(), c.cols(), a.cols(), b.cols()];
        assert_eq!(m, a.rows(), "C's rows");
        let (a, b, c) = (a.as_slice(), b.as_slice(), c.as_mut_slice());
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        let order = ROW_MAJOR;
        /// One call for both widths of integers.
        macro_rules! call {
            ($sgemm:expr, $int:ty) => {{
                let [m, n, k, ldb] =
                    [m, n, k, ldb].map(|size| <$int>::try_from(size).expect("size"));
                // SAFETY: dense row-major matrices whose shapes were just held against each other.
                unsafe {
                    $sgemm(
                        order, AS_STORED, b_is, m, n, k, 1.0, a, k, b, ldb, 0.0, c, n,
                    )
                }
            }};
        }
        match self.functions {
            Functions::Bits32(sgemm, _) => call!(sgemm, c_int),
            Functions::Bits64(sgemm, _) => call!(sgemm, i64),
        }
    }

    /// The lower triangle of `C = X Xᵀ`.
    pub fn gram(self, x: MatRef, mut c: MatMut) {
        let [n, k] = [x.rows(), x.cols()];
        assert_eq!((c.rows(), c.cols()), (n, n), "C's shape");
        let (x, c) = (x.as_slice().as_ptr(), c.as_mut_slice().as_mut_ptr());
        macro_rules! call {
            ($ssyrk:expr, $int:ty) => {{
                let [n, k] = [n, k].map(|size| <$int>::try_from(size).expect("size"));
                // SAFETY: X is n x k and C n x n, both dense.
                unsafe { $ssyrk(ROW_MAJOR, LOWER, AS_STORED, n, k, 1.0, x, k, 0.0, c, n) }
            }};
        }
        match self.functions {
            Functions::Bits32(_, ssyrk) => call!(ssyrk, c_int),
            Functions::Bits64(_, ssyrk) => call!(ssyrk, i64),
        }
    }
}
