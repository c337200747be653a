//! AES in Galois/counter mode, as memberlist uses it: `version | nonce (12) | ciphertext | tag (16)`.
//!
//! Version 0 pads the text to whole blocks of 16 bytes (PKCS7), version 1 doesn't. Keys have 16, 24 or 32 bytes.

use std::fmt;

use aes_gcm::{
    Aes128Gcm, Aes256Gcm, AesGcm,
    aead::{AeadInOut, KeyInit, consts::U12},
    aes::Aes192,
};

use crate::Refused;

type Aes192Gcm = AesGcm<Aes192, U12>;

/// Bytes of a nonce.
pub const NONCE: usize = 12;
/// Bytes of a tag.
const TAG: usize = 16;
/// Bytes of a block, to which version 0 pads.
const BLOCK: usize = 16;
/// Bytes before the ciphertext: the version and the nonce.
pub(crate) const PREFIX: usize = 1 + NONCE;

/// How text is padded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// Padded to whole blocks; memberlist's protocol 1.
    Padded = 0,
    /// Not padded; memberlist's protocol 2 and later.
    #[default]
    Plain = 1,
}

impl Version {
    /// What follows `length` bytes of text: the padding.
    fn padding(self, length: usize) -> usize {
        match self {
            Self::Padded => BLOCK - length % BLOCK,
            Self::Plain => 0,
        }
    }

    /// How many bytes `length` bytes of text become.
    pub(crate) fn sealed_length(self, length: usize) -> usize {
        PREFIX + length + self.padding(length) + TAG
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Padded => 0,
            Self::Plain => 1,
        }
    }
}

/// The key schedule, made once for each key: it takes longer than a packet.
#[derive(Clone)]
enum Schedule {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<Aes192Gcm>),
    Aes256(Box<Aes256Gcm>),
}

/// A key of 16, 24 or 32 bytes: AES-128, AES-192 or AES-256.
#[derive(Clone)]
pub struct Key {
    bytes: Box<[u8]>,
    schedule: Schedule,
}

impl fmt::Debug for Key {
    /// Says nothing of the key but its size: logs are read by more people than keyrings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} bytes)", self.bytes.len())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Key {}

impl Key {
    /// Takes a key of 16, 24 or 32 bytes; none for other sizes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let schedule = match bytes.len() {
            16 => Schedule::Aes128(Box::new(Aes128Gcm::new_from_slice(bytes).ok()?)),
            24 => Schedule::Aes192(Box::new(Aes192Gcm::new_from_slice(bytes).ok()?)),
            32 => Schedule::Aes256(Box::new(Aes256Gcm::new_from_slice(bytes).ok()?)),
            _ => return None,
        };
        Some(Self { bytes: bytes.into(), schedule })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends to `out` what is left to be appended once `out[at..]` holds the text: padding and tag; encrypts the text
    /// where it is. Before the text there must be room of [`PREFIX`] bytes for the version and the nonce.
    pub(crate) fn seal(
        &self,
        version: Version,
        nonce: [u8; NONCE],
        associated: &[u8],
        out: &mut Vec<u8>,
        at: usize,
    ) {
        let padding = version.padding(out.len().saturating_sub(at));
        let byte = u8::try_from(padding).unwrap_or_default();
        out.resize(out.len() + padding, byte);
        if let Some(prefix) = at.checked_sub(PREFIX).and_then(|start| out.get_mut(start..at)) {
            prefix[0] = version.byte();
            prefix[1..].copy_from_slice(&nonce);
        }
        let text = out.get_mut(at..).unwrap_or_default();
        // Text is shorter than 20 MiB, far below the 64 GiB at which AES-GCM ends: the only error there is.
        let tag = match &self.schedule {
            Schedule::Aes128(c) => c.encrypt_inout_detached(&nonce.into(), associated, text.into()),
            Schedule::Aes192(c) => c.encrypt_inout_detached(&nonce.into(), associated, text.into()),
            Schedule::Aes256(c) => c.encrypt_inout_detached(&nonce.into(), associated, text.into()),
        };
        out.extend_from_slice(&tag.map_or([0; TAG], Into::into));
    }

    /// Decrypts a ciphertext where it is; says whether the tag was right. Where it wasn't, nothing has changed.
    fn open(&self, nonce: [u8; NONCE], associated: &[u8], text: &mut [u8], tag: [u8; TAG]) -> bool {
        let (nonce, tag) = (&nonce.into(), &tag.into());
        let opened = match &self.schedule {
            Schedule::Aes128(c) => c.decrypt_inout_detached(nonce, associated, text.into(), tag),
            Schedule::Aes192(c) => c.decrypt_inout_detached(nonce, associated, text.into(), tag),
            Schedule::Aes256(c) => c.decrypt_inout_detached(nonce, associated, text.into(), tag),
        };
        opened.is_ok()
    }
}

/// Opens what one of `keys` sealed, where it is: gives the text. Where none did, `sealed` has not changed, so that it
/// can still be read as text that was never encrypted.
pub(crate) fn open<'a>(
    keys: &[Key],
    associated: &[u8],
    sealed: &'a mut [u8],
) -> Result<&'a [u8], Refused> {
    let (head, rest) = sealed.split_first_chunk_mut::<PREFIX>().ok_or(Refused::Sealed)?;
    let (text, tag) = rest.split_last_chunk_mut::<TAG>().ok_or(Refused::Sealed)?;
    let [version, nonce @ ..] = *head;
    let version = match version {
        0 => Version::Padded,
        1 => Version::Plain,
        _ => return Err(Refused::Sealed),
    };
    if !keys.iter().any(|key| key.open(nonce, associated, text, *tag)) {
        return Err(Refused::Sealed);
    }
    match version {
        Version::Plain => Ok(text),
        Version::Padded => unpadded(text).ok_or(Refused::Sealed),
    }
}

/// The text before its padding: as many bytes as its last byte says, all of them alike. memberlist looks only at the
/// last byte; a keyholder that wrote something else is refused here.
fn unpadded(text: &[u8]) -> Option<&[u8]> {
    let &last = text.last()?;
    let padding = usize::from(last);
    let (text, padded) = text.split_at_checked(text.len().checked_sub(padding)?)?;
    ((1..=BLOCK).contains(&padding) && padded.iter().all(|byte| *byte == last)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(key: &Key, version: Version, associated: &[u8], text: &[u8]) -> Vec<u8> {
        let mut out = [&[0; PREFIX], text].concat();
        key.seal(version, [7; NONCE], associated, &mut out, PREFIX);
        out
    }

    #[test]
    fn text_comes_back_with_every_size_of_key_in_both_versions() {
        for size in [16, 24, 32] {
            let key = Key::new(&vec![3; size]).unwrap();
            for version in [Version::Padded, Version::Plain] {
                for length in [0, 1, 15, 16, 17, 1400] {
                    let text = vec![9; length];
                    let mut bytes = sealed(&key, version, b"label", &text);
                    assert_eq!(bytes.len(), version.sealed_length(length));
                    let opened = open(std::slice::from_ref(&key), b"label", &mut bytes);
                    assert_eq!(opened, Ok(&text[..]));
                }
            }
        }
        assert_eq!(Key::new(&[3; 31]), None);
    }

    #[test]
    fn a_changed_bit_another_label_or_another_key_is_refused_and_changes_nothing() {
        let key = Key::new(&[3; 32]).unwrap();
        let keys = [Key::new(&[4; 16]).unwrap(), key.clone()];
        let whole = sealed(&key, Version::Plain, b"", b"hello");
        assert_eq!(open(&keys, b"", &mut whole.clone()), Ok(&b"hello"[..]));
        let mut other = whole.clone();
        assert_eq!(open(&keys, b"x", &mut other), Err(Refused::Sealed));
        assert_eq!(open(&keys[..1], b"", &mut other), Err(Refused::Sealed));
        assert_eq!(other, whole);
        for bit in 0..whole.len() * 8 {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // The version byte is outside what the tag covers: 0 only reads the text as padded.
            assert_eq!(open(&keys, b"", &mut changed), Err(Refused::Sealed), "bit {bit}");
        }
    }

    #[test]
    fn padding_that_lies_is_refused() {
        assert_eq!(unpadded(&[1, 2, 2]), Some(&[1][..]));
        assert_eq!(unpadded(&[3]), None, "longer than the text");
        assert_eq!(unpadded(&[0]), None, "nothing");
        assert_eq!(unpadded(&[9; 17][..]).map(<[u8]>::len), Some(8));
        assert_eq!(unpadded(&[17; 17]), None, "longer than a block");
        assert_eq!(unpadded(&[1, 3, 2]), None, "not alike");
        assert_eq!(unpadded(&[]), None);
    }
}
