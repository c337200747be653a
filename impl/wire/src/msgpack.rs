//! msgpack as hashicorp/go-msgpack writes it by default: the *old raw* form, from before msgpack knew binary and UTF-8
//! strings apart. Strings and byte arrays are both `raw` (fixraw, raw16, raw32), with no str8 and no bin.
//!
//! Writing keeps to that form, with the shortest encoding of each number and the keys of a struct in byte order, so that
//! what go-codec encodes deterministically is encoded here to the same bytes. Reading takes every form: Consul's own
//! event payloads use str8 and bin, and newer go-msgpack writes positive numbers as signed.

use crate::Refused;

/// A scalar, or the head of a collection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Head<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Bytes(&'a [u8]),
    Array(u32),
    Map(u32),
    Extension,
}

/// Reads msgpack values from bytes, front to back.
///
/// `nil` reads as the zero value of whatever is asked for, as in Go.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the first of `bytes` on.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(Refused::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Refused::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u16_be(&mut self) -> Result<u16, Refused> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32_be(&mut self) -> Result<u32, Refused> {
        self.array().map(u32::from_be_bytes)
    }

    fn sized(&mut self, n: u32) -> Result<Head<'a>, Refused> {
        // Where a `usize` is too small for the length, so are the bytes that are there.
        let n = usize::try_from(n).map_err(|_| Refused::Truncated)?;
        self.take(n).map(Head::Bytes)
    }

    fn extension(&mut self, n: u32) -> Result<Head<'a>, Refused> {
        self.take(1)?;
        self.sized(n).map(|_| Head::Extension)
    }

    fn head(&mut self) -> Result<Head<'a>, Refused> {
        let signed = |n: i64| match u64::try_from(n) {
            Ok(n) => Head::Unsigned(n),
            Err(_) => Head::Negative(n),
        };
        let [first] = self.array()?;
        Ok(match first {
            0x00..=0x7f => Head::Unsigned(u64::from(first)),
            0x80..=0x8f => Head::Map(u32::from(first & 0x0f)),
            0x90..=0x9f => Head::Array(u32::from(first & 0x0f)),
            0xa0..=0xbf => self.sized(u32::from(first & 0x1f))?,
            0xc0 => Head::Nil,
            0xc2 => Head::Bool(false),
            0xc3 => Head::Bool(true),
            0xc4 | 0xd9 => {
                let [n] = self.array()?;
                self.sized(u32::from(n))?
            }
            0xc5 | 0xda => {
                let n = self.u16_be()?;
                self.sized(u32::from(n))?
            }
            0xc6 | 0xdb => {
                let n = self.u32_be()?;
                self.sized(n)?
            }
            0xc7 => {
                let [n] = self.array()?;
                self.extension(u32::from(n))?
            }
            0xc8 => {
                let n = self.u16_be()?;
                self.extension(u32::from(n))?
            }
            0xc9 => {
                let n = self.u32_be()?;
                self.extension(n)?
            }
            0xca => Head::Float(f64::from(f32::from_be_bytes(self.array()?))),
            0xcb => Head::Float(f64::from_be_bytes(self.array()?)),
            0xcc => Head::Unsigned(u64::from(u8::from_be_bytes(self.array()?))),
            0xcd => Head::Unsigned(u64::from(self.u16_be()?)),
            0xce => Head::Unsigned(u64::from(self.u32_be()?)),
            0xcf => Head::Unsigned(u64::from_be_bytes(self.array()?)),
            0xd0 => signed(i64::from(i8::from_be_bytes(self.array()?))),
            0xd1 => signed(i64::from(i16::from_be_bytes(self.array()?))),
            0xd2 => signed(i64::from(i32::from_be_bytes(self.array()?))),
            0xd3 => signed(i64::from_be_bytes(self.array()?)),
            0xd4..=0xd8 => self.extension(1 << (first - 0xd4))?,
            0xdc => Head::Array(u32::from(self.u16_be()?)),
            0xdd => Head::Array(self.u32_be()?),
            0xde => Head::Map(u32::from(self.u16_be()?)),
            0xdf => Head::Map(self.u32_be()?),
            0xe0..=0xff => Head::Negative(i64::from(first.cast_signed())),
            // 0xc1 was never assigned.
            0xc1 => return Err(Refused::Type),
        })
    }

    /// Bytes or text. Empty for `nil`; see [`Self::optional_bytes`] where that differs from empty.
    pub fn bytes(&mut self) -> Result<&'a [u8], Refused> {
        Ok(self.optional_bytes()?.unwrap_or_default())
    }

    /// Bytes or text, or `nil`.
    pub fn optional_bytes(&mut self) -> Result<Option<&'a [u8]>, Refused> {
        match self.head()? {
            Head::Bytes(bytes) => Ok(Some(bytes)),
            Head::Nil => Ok(None),
            _ => Err(Refused::Type),
        }
    }

    /// Text in UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Refused> {
        str::from_utf8(self.bytes()?).map_err(|_| Refused::Text)
    }

    /// A number from 0 to 2⁶⁴−1.
    pub fn u64(&mut self) -> Result<u64, Refused> {
        match self.head()? {
            Head::Unsigned(n) => Ok(n),
            Head::Nil => Ok(0),
            Head::Negative(_) => Err(Refused::Range),
            _ => Err(Refused::Type),
        }
    }

    /// A number of a narrower type.
    pub fn number<N: TryFrom<u64>>(&mut self) -> Result<N, Refused> {
        N::try_from(self.u64()?).map_err(|_| Refused::Range)
    }

    /// A number from −2⁶³ to 2⁶³−1.
    pub fn i64(&mut self) -> Result<i64, Refused> {
        match self.head()? {
            Head::Unsigned(n) => i64::try_from(n).map_err(|_| Refused::Range),
            Head::Negative(n) => Ok(n),
            Head::Nil => Ok(0),
            _ => Err(Refused::Type),
        }
    }

    /// True or false; go-codec takes 1 and 0 for them as well.
    pub fn bool(&mut self) -> Result<bool, Refused> {
        match self.head()? {
            Head::Bool(value) => Ok(value),
            Head::Nil | Head::Unsigned(0) => Ok(false),
            Head::Unsigned(1) => Ok(true),
            _ => Err(Refused::Type),
        }
    }

    /// A floating-point number; integers are taken as well.
    pub fn f64(&mut self) -> Result<f64, Refused> {
        match self.head()? {
            Head::Float(value) => Ok(value),
            Head::Nil => Ok(0.0),
            // Exact below 2³², which is all that anybody could mean here.
            Head::Unsigned(n) => u32::try_from(n).map(f64::from).map_err(|_| Refused::Range),
            Head::Negative(n) => i32::try_from(n).map(f64::from).map_err(|_| Refused::Range),
            _ => Err(Refused::Type),
        }
    }

    /// The head of a map: how many pairs follow, as claimed.
    pub fn map(&mut self) -> Result<u32, Refused> {
        match self.head()? {
            Head::Map(n) => Ok(n),
            Head::Nil => Ok(0),
            _ => Err(Refused::Type),
        }
    }

    /// The head of an array: how many values follow, as claimed.
    pub fn list(&mut self) -> Result<u32, Refused> {
        match self.head()? {
            Head::Array(n) => Ok(n),
            Head::Nil => Ok(0),
            _ => Err(Refused::Type),
        }
    }

    /// Reads a struct: a map from the fields' names. `field` reads the value that follows the name it gets, and calls
    /// [`Self::skip`] for names that it doesn't know, since newer versions add fields.
    pub fn fields(
        &mut self,
        mut field: impl FnMut(&'a [u8], &mut Self) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        for _ in 0..self.map()? {
            let name = self.bytes()?;
            field(name, self)?;
        }
        Ok(())
    }

    /// Reads an array with at most `most` elements into a vector that grows as elements are read, never by what the
    /// head claims.
    pub fn elements<T>(
        &mut self,
        most: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, Refused>,
    ) -> Result<Vec<T>, Refused> {
        let n = usize::try_from(self.list()?).map_err(|_| Refused::TooLarge)?;
        if n > most {
            return Err(Refused::TooLarge);
        }
        let mut elements = Vec::new();
        for _ in 0..n {
            elements.push(element(self)?);
        }
        Ok(elements)
    }

    /// Passes over one value, with all that is in it. It counts what is still owed instead of calling itself, so depth
    /// takes neither stack nor memory, and each turn takes at least a byte, so counts that lie take no time either.
    pub fn skip(&mut self) -> Result<(), Refused> {
        let mut owed: u64 = 1;
        while owed > 0 {
            owed -= 1;
            let more = match self.head()? {
                Head::Array(n) => u64::from(n),
                Head::Map(n) => 2 * u64::from(n),
                _ => 0,
            };
            // Each of fewer than 2³³ bytes adds less than 2³³; beyond, it ends as truncated all the same.
            owed = owed.saturating_add(more);
        }
        Ok(())
    }
}

/// Writes msgpack values into a vector.
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Writer<'o> {
    /// Appends to `out`.
    pub const fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Appends bytes as they are, such as a message's type.
    pub fn plain(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// `nil`, which is what Go's nil slices become.
    pub fn nil(&mut self) -> &mut Self {
        self.plain(&[0xc0])
    }

    /// True or false.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.plain(&[if value { 0xc3 } else { 0xc2 }])
    }

    /// A number, in as few bytes as hold it.
    pub fn u64(&mut self, n: u64) -> &mut Self {
        if let Ok(n) = u8::try_from(n) {
            return if n < 0x80 { self.plain(&[n]) } else { self.plain(&[0xcc, n]) };
        }
        if let Ok(n) = u16::try_from(n) {
            return self.plain(&[0xcd]).plain(&n.to_be_bytes());
        }
        if let Ok(n) = u32::try_from(n) {
            return self.plain(&[0xce]).plain(&n.to_be_bytes());
        }
        self.plain(&[0xcf]).plain(&n.to_be_bytes())
    }

    /// A number that may be negative.
    pub fn i64(&mut self, n: i64) -> &mut Self {
        if let Ok(n) = u64::try_from(n) {
            return self.u64(n);
        }
        if let Ok(small) = i8::try_from(n) {
            let byte = small.cast_unsigned();
            return if small >= -32 { self.plain(&[byte]) } else { self.plain(&[0xd0, byte]) };
        }
        if let Ok(n) = i16::try_from(n) {
            return self.plain(&[0xd1]).plain(&n.to_be_bytes());
        }
        if let Ok(n) = i32::try_from(n) {
            return self.plain(&[0xd2]).plain(&n.to_be_bytes());
        }
        self.plain(&[0xd3]).plain(&n.to_be_bytes())
    }

    /// A 64-bit floating-point number.
    pub fn f64(&mut self, value: f64) -> &mut Self {
        self.plain(&[0xcb]).plain(&value.to_be_bytes())
    }

    /// Bytes or text, as raw. Longer than 4 GiB can't be told; nothing here comes near, and the rest is cut off.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let long = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match (u8::try_from(long), u16::try_from(long)) {
            (Ok(n), _) if n < 32 => self.plain(&[0xa0 | n]),
            (_, Ok(n)) => self.plain(&[0xda]).plain(&n.to_be_bytes()),
            _ => self.plain(&[0xdb]).plain(&long.to_be_bytes()),
        };
        let n = usize::try_from(long).unwrap_or(usize::MAX);
        self.plain(bytes.get(..n).unwrap_or(bytes))
    }

    /// Bytes, with `nil` for none at all.
    pub fn bytes_or_nil(&mut self, bytes: &[u8]) -> &mut Self {
        if bytes.is_empty() { self.nil() } else { self.bytes(bytes) }
    }

    /// Text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn head(&mut self, n: usize, short: u8, long: [u8; 2]) -> &mut Self {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        match (u8::try_from(n), u16::try_from(n)) {
            (Ok(n), _) if n < 16 => self.plain(&[short | n]),
            (_, Ok(n)) => self.plain(&[long[0]]).plain(&n.to_be_bytes()),
            _ => self.plain(&[long[1]]).plain(&n.to_be_bytes()),
        }
    }

    /// The head of a map of `n` pairs.
    pub fn map(&mut self, n: usize) -> &mut Self {
        self.head(n, 0x80, [0xde, 0xdf])
    }

    /// The head of an array of `n` values.
    pub fn list(&mut self, n: usize) -> &mut Self {
        self.head(n, 0x90, [0xdc, 0xdd])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut Writer<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut Writer::new(&mut out));
        out
    }

    #[test]
    fn numbers_take_as_few_bytes_as_hold_them_and_come_back() {
        let cases = [(0, 1), (127, 1), (128, 2), (255, 2), (256, 3), (65_535, 3), (65_536, 5)];
        let large = [(u64::from(u32::MAX), 5), (1 << 32, 9), (u64::MAX, 9)];
        for (n, length) in cases.into_iter().chain(large) {
            let bytes = written(|w| {
                w.u64(n);
            });
            assert_eq!(bytes.len(), length, "{n}");
            assert_eq!(Reader::new(&bytes).u64(), Ok(n));
        }
        for n in [-1, -32, -33, -128, -129, -32_768, -32_769, i64::from(i32::MIN), i64::MIN] {
            let bytes = written(|w| {
                w.i64(n);
            });
            assert_eq!(Reader::new(&bytes).i64(), Ok(n));
            assert_eq!(Reader::new(&bytes).u64(), Err(Refused::Range));
        }
    }

    #[test]
    fn thirty_two_bytes_are_raw16_since_the_old_form_has_no_str8() {
        assert_eq!(
            written(|w| {
                w.bytes(&[7; 31]);
            })[..2],
            [0xbf, 7]
        );
        assert_eq!(
            written(|w| {
                w.bytes(&[7; 36]);
            })[..4],
            [0xda, 0, 36, 7]
        );
        assert_eq!(
            written(|w| {
                w.bytes(&vec![7; 65_536]);
            })[..6],
            [0xdb, 0, 1, 0, 0, 7]
        );
    }

    #[test]
    fn every_form_of_bytes_reads_as_bytes() {
        for head in [&[0xa2][..], &[0xd9, 2], &[0xc4, 2], &[0xc5, 0, 2], &[0xdb, 0, 0, 0, 2]] {
            let bytes = [head, b"ab"].concat();
            assert_eq!(Reader::new(&bytes).bytes(), Ok(&b"ab"[..]), "{head:x?}");
        }
        assert_eq!(Reader::new(&[0xc0]).optional_bytes(), Ok(None));
        assert_eq!(Reader::new(&[0xd1, 0, 5]).number::<u8>(), Ok(5), "positive, as signed");
        assert_eq!(Reader::new(&[0xcd, 1, 0]).number::<u8>(), Err(Refused::Range));
    }

    #[test]
    fn a_million_nested_arrays_are_passed_over_without_a_stack() {
        let mut bytes = vec![0x91; 1_000_000];
        assert_eq!(Reader::new(&bytes).skip(), Err(Refused::Truncated));
        bytes.push(0xc0);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.skip(), Ok(()));
        assert_eq!(reader.rest(), b"");
    }

    #[test]
    fn counts_that_lie_are_truncated_at_once() {
        assert_eq!(Reader::new(&[0xdd, 255, 255, 255, 255]).skip(), Err(Refused::Truncated));
        assert_eq!(Reader::new(&[0xdb, 255, 255, 255, 255]).bytes(), Err(Refused::Truncated));
        let mut reader = Reader::new(&[0xdd, 0, 0, 255, 255, 0xc0]);
        let list = reader.elements(1 << 20, Reader::u64);
        assert_eq!(list, Err(Refused::Truncated));
    }
}
