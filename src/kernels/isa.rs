//! Detection and choice of the instruction set.

use std::fmt;
use std::sync::OnceLock;

use crate::error::{Error, Result};
use crate::kernels::simd::{Portable, Simd, Task};

/// `with_isa!(isa, || work)`: run plain Rust that is compiled for the instruction set `isa`, so
/// that the compiler vectorises its loops. The result is the same on every instruction set, as
/// Rust neither reorders nor contracts floating point operations.
///
/// It is a macro because `#[inline(always)]` has to stand on the closure itself: a closure that is
/// not inlined is compiled for the base instruction set.
macro_rules! with_isa {
    ($isa:expr, || $work:expr) => {
        $isa.run_plain(
            #[inline(always)]
            || $work,
        )
    };
}
pub(crate) use with_isa;

/// An instruction set that this machine has. A value exists only for those, so it is a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(pub(super) Kind);

/// The instruction sets that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// With BW and VNNI: products of bytes and of 16-bit numbers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

impl Isa {
    /// Plain Rust, available on every machine.
    pub const PORTABLE: Isa = Isa(Kind::Portable);

    /// Run `task` with this instruction set.
    pub(super) fn run(self, task: &mut impl Task) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind exists only where the machine has it.
            Kind::Avx512 => unsafe { crate::kernels::x86_64::run_avx512(task) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind exists only where the machine has it.
            Kind::Avx2 => unsafe { crate::kernels::x86_64::run_avx2(task) },
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => crate::kernels::aarch64::run_neon(task),
            // SAFETY: plain Rust needs no instruction set.
            Kind::Portable => unsafe { task.run::<Portable, 2>() },
        }
    }

    /// Run `work` with this instruction set; call it through [`with_isa!`], which inlines `work`.
    pub(crate) fn run_plain<R>(self, work: impl FnOnce() -> R) -> R {
        struct Plain<F, R> {
            work: Option<F>,
            result: Option<R>,
        }
        impl<R, F: FnOnce() -> R> Task for Plain<F, R> {
            #[inline(always)]
            unsafe fn run<S: Simd, const NV: usize>(&mut self) {
                self.result = self.work.take().map(|work| work());
            }
        }
        let mut plain = Plain {
            work: Some(work),
            result: None,
        };
        self.run(&mut plain);
        plain.result.expect("`run` called the task once")
    }

    /// The instruction sets of this machine, the fastest first.
    pub fn available() -> Vec<Isa> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                found.push(Isa(Kind::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Isa(Kind::Avx2));
            }
        }
        #[cfg(target_arch = "aarch64")]
        found.push(Isa(Kind::Neon));
        found.push(Isa::PORTABLE);
        found
    }

    /// [`Isa::chosen`], or [`Isa::PORTABLE`] where that fails (a fit refuses to begin then).
    pub fn current() -> Isa {
        Isa::chosen().unwrap_or(Isa::PORTABLE)
    }

    /// The instruction set of all products: the fastest, or the one that `FLOWREG_ISA` names. The
    /// variable is read once in a process.
    ///
    /// # Errors
    /// [`Error::Options`] if `FLOWREG_ISA` names one that the machine does not have.
    pub fn chosen() -> Result<Isa> {
        static CHOSEN: OnceLock<std::result::Result<Isa, String>> = OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| {
            let available = Isa::available();
            match std::env::var("FLOWREG_ISA") {
                Err(_) => Ok(available[0]),
                Ok(name) => {
                    let named = available.iter().find(|isa| isa.to_string() == name);
                    named.copied().ok_or(name)
                }
            }
        });
        chosen.clone().map_err(|name| {
            let names: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
            let expected = format!("{}: what this machine has", names.join(", "));
            Error::options("FLOWREG_ISA", name, expected)
        })
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2+fma",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
            Kind::Portable => "portable",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// `FLOWREG_TEST_ISAS` lists the instruction sets that `.ci/run` detected; the tests of the
    /// kernels must cover the same ones.
    #[test]
    fn every_instruction_set_of_the_machine_is_tested() {
        let available: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
        match std::env::var("FLOWREG_TEST_ISAS") {
            Ok(expected) => assert_eq!(available.join(","), expected),
            // libtest captures `eprintln!`, so write to stderr directly.
            Err(_) => drop(writeln!(
                std::io::stderr(),
                "FLOWREG_TEST_ISAS is not set; tested: {available:?}"
            )),
        }
        for isa in Isa::available() {
            struct Lanes(usize);
            impl Task for Lanes {
                unsafe fn run<S: Simd, const NV: usize>(&mut self) {
                    self.0 = size_of::<S::V>() / size_of::<f32>();
                }
            }
            let mut lanes = Lanes(0);
            isa.run(&mut lanes);
            let expected = match isa.to_string().as_str() {
                "avx512" => 16,
                "avx2+fma" => 8,
                "neon" => 4,
                _ => size_of::<<Portable as Simd>::V>() / size_of::<f32>(),
            };
            assert_eq!(lanes.0, expected, "{isa}");
        }
    }
}
