//! Tests of the store's file: how it is created, and what damage is noticed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// Number of bytes of the header of the file. The first of them have no checksum.
const HEADER_SIZE: usize = 320;
/// The bits that are inverted, as first bit and stride: all of the header's first 64 bytes, some of its
/// other bytes, and some of the rest of the file. Each bit of a byte is inverted somewhere.
const BITS: [(usize, usize); 3] = [(0, 1), (64 * 8, 7), (HEADER_SIZE * 8, 2003)];
/// The bit of the header that says which of two commits is the last one. If it is inverted, the file is
/// that of the commit before; the daemon compares the number of the commit with the kernel's.
const LAST_COMMIT_BIT: usize = 9 * 8;

fn three_filters() -> Objects {
    let mut objects = Objects::default();
    (1..=3).for_each(|key| {
        add(
            &mut objects,
            filter(key, Lifetime::Persistent),
            &Author::default(),
        );
    });
    objects
}

/// Opens and loads a store. Debug builds of redb panic where release builds return an error.
fn load(path: &Path) -> Option<(Objects, PolicySource)> {
    let loaded = catch_unwind(AssertUnwindSafe(|| {
        let mut store = Store::open(path).ok()?;
        let loaded = store.load(BOOT, &|_| true).ok()?;
        Some((loaded.objects, store.source()))
    }));
    loaded.ok().flatten()
}

fn assert_same(loaded: &Objects, expected: &Objects, bit: usize) {
    assert_eq!(keys(loaded), keys(expected), "bit {bit}");
    for entry in expected.entries::<Filter>() {
        let key = entry.object.identity.key;
        assert_eq!(loaded.entry::<Filter>(key).unwrap(), entry, "bit {bit}");
    }
    assert_eq!(loaded.last_id(), expected.last_id(), "bit {bit}");
}

/// Inverts bits of a store's file, one at a time, and loads each file. Returns how many were refused.
fn invert_bits(bytes: &[u8], expected: &Objects, source: PolicySource, closed: bool) -> usize {
    // Writes to this file system need no disk.
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("policy.redb");
    let ends = [BITS[1].0, BITS[2].0, bytes.len() * 8];
    let parts = BITS.iter().zip(ends);
    let bits = parts.flat_map(|((first, stride), end)| (*first..end).step_by(*stride));
    let mut refused = 0;
    for bit in bits {
        let mut damaged = bytes.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, damaged).unwrap();
        match load(&path) {
            None => refused += 1,
            Some((_, found)) if bit == LAST_COMMIT_BIT && !closed => {
                assert_eq!(found.commit, source.commit - 1);
            }
            Some((loaded, found)) => {
                assert_same(&loaded, expected, bit);
                assert_eq!(found, source, "bit {bit}");
            }
        }
    }
    refused
}

#[test]
fn an_inverted_bit_is_refused_or_changes_nothing() {
    let (folder, mut store) = store();
    let path = folder.path().join("policy.redb");
    let objects = three_filters();
    let mut before = objects.clone();
    add(
        &mut before,
        filter(4, Lifetime::Persistent),
        &Author::default(),
    );
    let mut after = before.clone();
    after
        .delete::<Filter>(Uuid::from_u128(4), &Author::default())
        .unwrap();
    store.write(&before).unwrap();
    let source = store.write(&after).unwrap();
    // The first copy is the file of a daemon that was killed.
    let killed = fs::read(&path).unwrap();
    drop(store);
    let closed = fs::read(&path).unwrap();
    for (bytes, is_closed) in [(killed, false), (closed, true)] {
        let refused = invert_bits(&bytes, &after, source, is_closed);
        println!("{refused} of the files were refused");
        assert!(refused > 100, "only {refused} files were refused");
    }
}

#[test]
fn a_record_that_has_changed_is_refused() {
    let (folder, mut store) = store();
    let path = folder.path().join("policy.redb");
    store.write(&three_filters()).unwrap();
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|four| four == b"rule").unwrap();
    bytes[at] ^= 1;
    // A record may be in the file twice; the older one is not used.
    let other = bytes.windows(4).rposition(|four| four == b"rule").unwrap();
    bytes[other] ^= 1;
    fs::write(&path, bytes).unwrap();
    if let Some((loaded, _)) = load(&path) {
        panic!("{:?} were loaded", keys(&loaded));
    }
}

#[test]
fn a_new_store_belongs_to_its_owner_and_has_an_id() {
    let (folder, store) = store();
    let path = folder.path().join("policy.redb");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    let source = store.source();
    assert!(!source.store.is_nil());
    drop(store);
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let mut store = Store::open(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(store.source(), source);
    let warnings = store.load(BOOT, &|_| true).unwrap().warnings;
    assert!(warnings[0].contains("its mode was 644"), "{warnings:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// What a daemon of an earlier version left that was killed while it created its store.
#[test]
fn a_file_without_contents_is_made_anew() {
    let (folder, store) = store();
    drop(store);
    let path = folder.path().join("policy.redb");
    let mut header = fs::read(&path).unwrap();
    header.truncate(HEADER_SIZE);
    header[..9].fill(0);
    let with_header = [header, vec![0; 73_728 - HEADER_SIZE]].concat();
    for left in [Vec::new(), vec![0; 73_728], with_header] {
        fs::write(&path, left).unwrap();
        let mut store = Store::open(&path).unwrap();
        let loaded = store.load(BOOT, &|_| true).unwrap();
        assert!(loaded.is_empty);
        assert!(loaded.warnings[0].contains("made anew"), "{loaded:?}");
    }
}

#[test]
fn a_file_that_may_have_objects_is_never_made_anew() {
    let (folder, mut store) = store();
    let path = folder.path().join("policy.redb");
    store.write(&three_filters()).unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    let mut without_magic = whole.clone();
    without_magic[..9].fill(0);
    let text = b"not a database".to_vec();
    for other in [
        without_magic,
        text,
        vec![0; 1 << 20],
        whole[..5000].to_vec(),
    ] {
        fs::write(&path, &other).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains("--adopt-kernel"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), other);
    }
}

#[test]
fn a_store_behind_a_symbolic_link_is_used() {
    let (folder, mut store) = store();
    store.write(&three_filters()).unwrap();
    drop(store);
    let link = folder.path().join("link");
    symlink("policy.redb", &link).unwrap();
    let (objects, _) = load(&link).unwrap();
    assert_eq!(keys(&objects), [1, 2, 3]);
}

#[test]
fn what_an_unfinished_creation_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.redb");
    fs::write(folder.path().join("policy.redb.unfinished"), [0; 5]).unwrap();
    let mut store = Store::open(&path).unwrap();
    store.write(&three_filters()).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn commits_are_counted_and_a_failed_one_is_settled() {
    let (folder, mut store) = store();
    let path = folder.path().join("policy.redb");
    let first = three_filters();
    let source = store.write(&first).unwrap();
    assert_eq!(source.commit, 1);
    let mut second = first.clone();
    add(
        &mut second,
        filter(4, Lifetime::Persistent),
        &Author::default(),
    );
    // The commit is in the file, but the store was not notified of it.
    store.write(&second).unwrap();
    store.source = source;
    store.stored = first.clone();
    store.attempted = Some(second);
    store.database = None;
    let mut third = first.clone();
    add(
        &mut third,
        filter(5, Lifetime::Persistent),
        &Author::default(),
    );
    assert_eq!(store.write(&third).unwrap().commit, 3);
    assert_eq!(
        keys(&store.load(BOOT, &|_| true).unwrap().objects),
        [1, 2, 3, 5]
    );
    store.database = None;
    fs::remove_file(&path).unwrap();
    drop(Store::open(&path).unwrap());
    assert!(matches!(store.write(&first), Err(Error::Replaced { .. })));
}
