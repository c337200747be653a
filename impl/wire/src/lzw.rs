//! Compression: a struct `{Algo: 0, Buf}`, whose `Buf` is LZW as in GIF, least significant bit first, literals of 8 bits.
//!
//! LZW expands up to about 2,700 times: 20 MiB could become 54 GiB. What comes out is therefore capped while it comes
//! out, and not looked at afterwards.

use weezl::{BitOrder, LzwStatus};

use crate::{
    Refused,
    memberlist::kind,
    msgpack::{Reader, Writer},
};

/// The tables of compressor and decompressor, to be used again: they take more to allocate than a packet takes to
/// decompress.
pub struct Tables {
    encoder: weezl::encode::Encoder,
    decoder: weezl::decode::Decoder,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            encoder: weezl::encode::Encoder::new(BitOrder::Lsb, 8),
            decoder: weezl::decode::Decoder::new(BitOrder::Lsb, 8),
        }
    }
}

/// How much is decompressed, or compressed, at a time.
const STEP: usize = 4096;

impl Tables {
    /// Decompresses `data` into `out`, which is emptied first; refuses what would come to more than `limit` bytes.
    pub fn decompress(
        &mut self,
        mut data: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        out.clear();
        self.decoder.reset();
        loop {
            let mut step = [0; STEP];
            let result = self.decoder.decode_bytes(data, &mut step);
            let (taken, given) = (result.consumed_in, result.consumed_out);
            data = data.get(taken..).unwrap_or_default();
            if out.len().saturating_add(given) > limit {
                return Err(Refused::TooLarge);
            }
            grow(out, given, limit);
            out.extend_from_slice(step.get(..given).unwrap_or_default());
            match result.status {
                Ok(LzwStatus::Done) => return Ok(()),
                Ok(LzwStatus::Ok) if taken > 0 || given > 0 => {}
                // No progress: it ends without the code that ends it.
                Ok(LzwStatus::Ok | LzwStatus::NoProgress) | Err(_) => {
                    return Err(Refused::Compression);
                }
            }
        }
    }

    /// Appends `data`, compressed.
    pub fn compress(&mut self, mut data: &[u8], out: &mut Vec<u8>) {
        self.encoder.reset();
        self.encoder.finish();
        loop {
            let mut step = [0; STEP];
            let result = self.encoder.encode_bytes(data, &mut step);
            data = data.get(result.consumed_in..).unwrap_or_default();
            out.extend_from_slice(step.get(..result.consumed_out).unwrap_or_default());
            // Every byte is a literal of 8 bits, so there is nothing that the encoder could refuse.
            if !matches!(result.status, Ok(LzwStatus::Ok)) {
                return;
            }
        }
    }
}

/// Makes room for `more` bytes: twice the room there was, as vectors do, but never beyond `limit`, where a vector would go
/// on to twice that.
pub(crate) fn grow(out: &mut Vec<u8>, more: usize, limit: usize) {
    let needed = out.len().saturating_add(more);
    if needed > out.capacity() {
        let room = (2 * out.capacity()).clamp(needed, limit.max(needed));
        out.reserve_exact(room - out.len());
    }
}

/// The struct that follows the type byte 9.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Compressed<'a> {
    algorithm: u64,
    /// What is compressed.
    pub(crate) data: &'a [u8],
}

impl<'a> Compressed<'a> {
    /// Takes the struct apart. Where it is refused, what came before is there.
    pub(crate) fn read(&mut self, reader: &mut Reader<'a>) -> Result<(), Refused> {
        reader.fields(|field, reader| {
            match field {
                b"Algo" => self.algorithm = reader.u64()?,
                b"Buf" => self.data = reader.bytes()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        if self.algorithm == 0 { Ok(()) } else { Err(Refused::Compression) }
    }
}

/// What [`write()`] adds at most: type, map, two names, a number, the length.
pub(crate) const OVERHEAD: usize = 1 + 1 + 5 + 1 + 4 + 5;

/// Appends the message of type 9 around compressed `data`.
pub(crate) fn write(data: &[u8], out: &mut Vec<u8>) {
    Writer::new(out).plain(&[kind::COMPRESSED]).map(2).text("Algo").u64(0).text("Buf").bytes(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Tables::default().compress(data, &mut out);
        out
    }

    #[test]
    fn data_comes_back_past_every_reset_of_the_table() {
        let mut tables = Tables::default();
        let mut out = Vec::new();
        for n in [0, 1, 100, 4096, 20_000, 300_000] {
            let data: Vec<u8> =
                (0..n).map(|i: u32| (i.wrapping_mul(i) >> 7).to_le_bytes()[0]).collect();
            assert_eq!(tables.decompress(&compressed(&data), 1 << 20, &mut out), Ok(()));
            assert_eq!(out, data);
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_takes_memory() {
        let bomb = compressed(&vec![0; 20 << 20]);
        assert!(bomb.len() < 32 << 10, "{} bytes", bomb.len());
        let mut out = Vec::new();
        assert_eq!(Tables::default().decompress(&bomb, 65_536, &mut out), Err(Refused::TooLarge));
        assert!(out.capacity() <= 2 * 65_536, "{}", out.capacity());
    }

    #[test]
    fn data_that_ends_early_is_refused() {
        let whole = compressed(b"abcabcabcabc");
        for n in 0..whole.len() - 1 {
            let mut out = Vec::new();
            let result = Tables::default().decompress(&whole[..n], 1000, &mut out);
            assert_eq!(result, Err(Refused::Compression), "{n} bytes");
        }
    }
}
