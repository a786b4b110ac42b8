//! Samples of which each rank of a group has some rows.

use std::ops::Range;

use crate::comm::exchange::{move_rows, rows_to_columns};
use crate::comm::rows::{RowShard, are_shared, share};
use crate::comm::{self, Comm};
use crate::design::rows::{Rows, Shard, shard_columns};
use crate::design::samples::{Samples, try_with_capacity};
use crate::error::{Error, Result};

/// Labelled rows of all ranks of a group, each of which gave some: the dataset is the ranks' rows in
/// the order of the ranks.
///
/// Wide data (n ≤ d) is divided by columns: each rank has its columns of all rows, as after
/// [`Samples::columns_of`]. Tall data is divided by rows: each rank has whole blocks of rows, as after
/// [`Samples::rows_of`]. The bits of a fit then do not depend on which rank gave which rows.
#[derive(Clone, Debug)]
pub struct RankSamples<'a> {
    x: Held<'a>,
    place: Place<'a>,
    comm: &'a dyn Comm,
    labels: &'a [u32],
    classes: usize,
}

/// The features of a rank.
#[derive(Clone, Debug)]
enum Held<'a> {
    Given(Rows<'a>),
    Received { x: Vec<f32>, features: usize },
}

/// What a rank has of X.
#[derive(Clone, Copy, Debug)]
enum Place<'a> {
    Columns(Shard<'a>),
    Rows(RowShard<'a>),
    All,
}

impl<'a> RankSamples<'a> {
    /// The dataset of which this rank has `own` rows, with the labels of all rows, which every rank
    /// has. All ranks call it, with the same labels and number of classes.
    ///
    /// Cost for n x d features on P ranks: for wide data 2·n·d·(P - 1)/P bytes of sums and 4·n·d/P
    /// bytes of memory; for tall data 4·d bytes of sums for each row that another rank is to have, and
    /// nothing if there is none ([`crate::comm::rows::share`] says which rows a rank is to have).
    ///
    /// # Errors
    /// On all ranks: [`Error::Shape`] if the ranks have other numbers of features or other labels, if
    /// the labels are not as many as the rows, or as [`Samples::from_labels`]; [`Error::Options`] if
    /// there are fewer slabs of columns, or blocks of rows, than ranks. On one rank, and
    /// [`Error::Rank`] on the others: [`Error::Memory`] if it cannot hold its part.
    pub fn of_rows(
        comm: &'a dyn Comm,
        own: &Rows<'a>,
        labels: &'a [u32],
        classes: usize,
    ) -> Result<RankSamples<'a>> {
        let (rows, d) = (rows_of_ranks(comm, own, labels)?, own.features());
        let n = labels.len();
        let (x, place) = if are_shared(n, d) {
            by_rows(comm, own, &rows)?
        } else {
            by_columns(comm, own, &rows)?
        };
        RankSamples::checked(x, place, comm, labels, classes)
    }

    /// Other rows of the ranks, to validate on: divided by columns if these are, else all rows on all
    /// ranks, which takes 4·m·d bytes of sums and of memory for m rows.
    ///
    /// # Errors
    /// As [`RankSamples::of_rows`], whatever the number of rows.
    pub fn validation(&self, own: &Rows<'a>, labels: &'a [u32]) -> Result<RankSamples<'a>> {
        let rows = rows_of_ranks(self.comm, own, labels)?;
        let (x, place) = match self.place {
            Place::Columns(_) => by_columns(self.comm, own, &rows)?,
            _ => {
                let all: Vec<usize> = (0..labels.len()).collect();
                let moved = if self.comm.size() > 1 { &all[..] } else { &[] };
                let x = received(self.comm, own, &rows, moved, 0..labels.len())?;
                (x, Place::All)
            }
        };
        RankSamples::checked(x, place, self.comm, labels, self.classes)
    }

    fn checked(
        x: Held<'a>,
        place: Place<'a>,
        comm: &'a dyn Comm,
        labels: &'a [u32],
        classes: usize,
    ) -> Result<RankSamples<'a>> {
        let samples = RankSamples {
            x,
            place,
            comm,
            labels,
            classes,
        };
        comm::agree(comm, samples.samples().map(|_| ()))?;
        Ok(samples)
    }

    /// A view of this rank's part. A fit of it is one of all ranks together, and its model that of all
    /// rows and columns.
    ///
    /// # Errors
    /// As [`Samples::from_labels`].
    pub fn samples(&self) -> Result<Samples<'_>> {
        let x = match &self.x {
            Held::Given(rows) => rows.clone(),
            Held::Received { x, features } => {
                Rows::strided(x, x.len() / features, *features, *features)?
            }
        };
        let x = match self.place {
            Place::Columns(shard) => x.on_ranks(Some(shard), None),
            Place::Rows(shard) => x.on_ranks(None, Some(shard)),
            Place::All => x,
        };
        Samples::from_rows(x, self.labels, self.classes)
    }
}

/// Exchanges the ranks' rows for their columns.
fn by_columns<'a>(comm: &'a dyn Comm, own: &Rows, rows: &[usize]) -> Result<(Held<'a>, Place<'a>)> {
    let d = own.features();
    let columns = shard_columns(d, comm.size())?;
    let range = columns[comm.rank()].clone();
    let n: usize = rows.iter().sum();
    let mut x = zeros(comm, n, range.len())?;
    rows_to_columns(comm, |i| own.row(i), rows, &columns, &mut x);
    let features = range.len();
    let shard = Shard {
        comm,
        first: range.start,
        features: d,
    };
    Ok((Held::Received { x, features }, Place::Columns(shard)))
}

/// Moves rows to the ranks whose blocks they belong to.
fn by_rows<'a>(
    comm: &'a dyn Comm,
    own: &Rows<'a>,
    rows: &[usize],
) -> Result<(Held<'a>, Place<'a>)> {
    let n = rows.iter().sum();
    let shard = RowShard::new(comm, n)?;
    let mut moved = Vec::new();
    let mut first = 0;
    for (rank, &rows) in rows.iter().enumerate() {
        let wanted = share(n, rank, comm.size());
        moved.extend((first..first + rows).filter(|i| !wanted.contains(i)));
        first += rows;
    }
    let x = if moved.is_empty() {
        Held::Given(own.clone())
    } else {
        received(comm, own, rows, &moved, shard.range())?
    };
    Ok((x, Place::Rows(shard)))
}

/// The wanted rows of all ranks.
fn received<'a>(
    comm: &dyn Comm,
    own: &Rows,
    rows: &[usize],
    moved: &[usize],
    wanted: Range<usize>,
) -> Result<Held<'a>> {
    let features = own.features();
    let mut x = zeros(comm, wanted.len(), features)?;
    move_rows(comm, |i| own.row(i), rows, moved, wanted, features, &mut x);
    Ok(Held::Received { x, features })
}

/// `rows` x `features` zeros, if all ranks have the memory.
fn zeros(comm: &dyn Comm, rows: usize, features: usize) -> Result<Vec<f32>> {
    let values = rows.saturating_mul(features);
    let mut x = comm::agree(comm, try_with_capacity(values))?;
    x.resize(values, 0.0);
    Ok(x)
}

/// The number of rows of each rank, after checks that all ranks have the same features and labels.
fn rows_of_ranks(comm: &dyn Comm, own: &Rows, labels: &[u32]) -> Result<Vec<usize>> {
    let crc32 = crc32fast::hash(bytemuck::cast_slice(labels));
    let mine = [own.len(), own.features(), labels.len(), crc32 as usize];
    let all = comm::gather(comm, &mine.map(|value| value as i64));
    let of_rank = |rank: usize, at: usize| all[4 * rank + at] as usize;
    for rank in 1..comm.size() {
        if of_rank(rank, 1) != of_rank(0, 1) {
            return Err(Error::shape(
                "x",
                format!("{} features in process {rank}", of_rank(rank, 1)),
                format!("{} features as in process 0", of_rank(0, 1)),
            ));
        }
        if (2..4).any(|at| of_rank(rank, at) != of_rank(0, at)) {
            let found = format!("others in process {rank} than in process 0");
            return Err(Error::shape(
                "labels",
                found,
                "those of all rows in each process",
            ));
        }
    }
    let rows: Vec<usize> = (0..comm.size()).map(|rank| of_rank(rank, 0)).collect();
    let n: usize = rows.iter().sum();
    if n != labels.len() || n == 0 {
        let expected = format!("as many as rows of all processes, {n}, and at least one");
        return Err(Error::shape("labels", labels.len(), expected));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::tests::on_ranks;
    use crate::kernels::random_values;

    /// The rows of each rank, in a wider matrix of `d + 3` columns.
    fn own<'a>(x: &'a [f32], d: usize, rows: Range<usize>) -> Rows<'a> {
        let end = rows.end * (d + 3);
        Rows::strided(&x[rows.start * (d + 3)..end], rows.len(), d, d + 3).unwrap()
    }

    #[test]
    fn rows_of_ranks_become_the_columns_of_all_rows_to_the_bit() {
        let (n, d) = (11, 300);
        let mut x = random_values(n * (d + 3), 3);
        (x[5], x[d + 4], x[2 * d]) = (f32::NAN, -0.0, f32::INFINITY);
        let labels: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
        let all = own(&x, d, 0..n);
        let whole = Samples::from_rows(all, &labels, 3).unwrap();
        for bounds in [
            vec![0, 11],
            vec![0, 1, 11],
            vec![0, 3, 10, 11],
            vec![0, 2, 2, 8, 11],
        ] {
            let size = bounds.len() - 1;
            let same = on_ranks(size, |comm| {
                let rows = bounds[comm.rank()]..bounds[comm.rank() + 1];
                let rows = own(&x, d, rows);
                let train = RankSamples::of_rows(comm, &rows, &labels, 3).unwrap();
                let val = train.validation(&rows, &labels).unwrap();
                let expected = whole.columns_of(comm).unwrap();
                for found in [train.samples().unwrap(), val.samples().unwrap()] {
                    assert_eq!(found.labels(), expected.labels());
                    assert_eq!(found.x().all_features(), d);
                    let first = |samples: &Samples| samples.x().shard().unwrap().first;
                    assert_eq!(first(&found), first(&expected));
                    for i in 0..n {
                        let bits = |samples: &Samples| -> Vec<u32> {
                            samples.x().row(i).iter().map(|x| x.to_bits()).collect()
                        };
                        assert_eq!(bits(&found), bits(&expected), "row {i}, {size} ranks");
                    }
                }
                train.samples().unwrap().fingerprint()
            });
            assert!(same.iter().all(|fingerprint| *fingerprint == same[0]));
        }
    }

    /// Whether rows move or not.
    #[test]
    fn tall_rows_of_ranks_are_those_of_their_blocks_to_the_bit() {
        let (n, d) = (1300, 5);
        let x = random_values(n * (d + 3), 3);
        let labels: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
        let all = own(&x, d, 0..n);
        let whole = Samples::from_rows(all.clone(), &labels, 3).unwrap();
        let bounds = [
            vec![0, n],
            vec![0, 7, n],
            vec![0, 512, n],
            vec![0, 512, 1024, n],
            vec![0, 0, 1, n],
        ];
        for bounds in bounds {
            let size = bounds.len() - 1;
            on_ranks(size, |comm| {
                let rows = bounds[comm.rank()]..bounds[comm.rank() + 1];
                let is_in_place =
                    (0..size).all(|r| share(n, r, size) == (bounds[r]..bounds[r + 1]));
                let rows = own(&x, d, rows);
                let train = RankSamples::of_rows(comm, &rows, &labels, 3).unwrap();
                assert_eq!(matches!(train.x, Held::Given(_)), is_in_place);
                let found = train.samples().unwrap();
                let expected = whole.rows_of(comm).unwrap();
                assert_eq!((found.rows(), found.labels()), (n, expected.labels()));
                assert_eq!(found.x().len(), expected.x().len());
                assert_eq!(
                    found.x().row_shard().unwrap().range(),
                    share(n, comm.rank(), size)
                );
                for i in 0..found.x().len() {
                    assert_eq!(
                        found.x().row(i),
                        expected.x().row(i),
                        "row {i}, {size} ranks"
                    );
                }
                assert_eq!(found.fingerprint(), expected.fingerprint());
                let val = train.validation(&rows, &labels).unwrap();
                let val = val.samples().unwrap();
                assert!(!val.x().is_shared());
                (0..n).for_each(|i| assert_eq!(val.x().row(i), all.row(i)));
            });
        }
    }

    /// On every rank, with the same text.
    #[test]
    fn invalid_inputs_are_rejected() {
        let (n, d) = (6, 300);
        let x = random_values(n * (d + 3), 3);
        let labels: Vec<u32> = vec![0, 1, 0, 1, 0, 1];
        let refusal =
            |size, expected: &str, of_rank: &(dyn Fn(usize) -> (usize, Vec<u32>) + Sync)| {
                let errors = on_ranks(size, |comm| {
                    let (d, labels) = of_rank(comm.rank());
                    let rows = own(&x, d, comm::share(n, comm.rank(), size));
                    let samples = RankSamples::of_rows(comm, &rows, &labels, 2);
                    samples.map(|_| ()).unwrap_err().to_string()
                });
                for error in &errors {
                    assert!(error.contains(expected), "{error}");
                    assert_eq!(*error, errors[0]);
                }
            };
        refusal(2, "296 features in process 1", &|rank| {
            (d - 4 * rank, labels.clone())
        });
        refusal(2, "labels: found others in process 1", &|rank| {
            (d, [vec![1; rank], labels[rank..].to_vec()].concat())
        });
        refusal(2, "labels: found 5", &|_| (d, labels[1..].to_vec()));
        refusal(2, "at most 1: 6 rows", &|_| (5, labels.clone()));
        refusal(3, "at most 2: 100 features", &|_| (100, labels.clone()));
        refusal(2, "found 7 in row 5", &|_| (d, vec![0, 1, 0, 1, 0, 7]));
    }
}
