//! What a pool wraps its packets and streams in: its label and its keys, and how strict it is about them.
//!
//! Encryption is brought to a pool that runs in three rolling restarts (Consul's `encrypt_verify_incoming` and
//! `encrypt_verify_outgoing`): keys with both off, so that everybody *can* decrypt; outgoing on, so that everybody
//! encrypts; incoming on, so that nobody takes what isn't encrypted. Backwards to turn it off.

use crate::{Refused, cipher, cipher::Key, cipher::Version, keyring::Keyring, memberlist::kind};

/// How packets and streams of one pool are wrapped.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The pool's label, up to 255 bytes; empty for none. What has another label is refused.
    pub label: Box<str>,
    /// The pool's keys. With none, nothing is encrypted, whatever the two settings below say.
    pub keyring: Keyring,
    /// Refuse what isn't encrypted.
    pub verify_incoming: bool,
    /// Encrypt what is sent.
    pub verify_outgoing: bool,
    /// Compress what becomes smaller for it. Compressed input is always taken.
    pub compression: bool,
    /// How text is padded when it is encrypted. Both ways are always taken.
    pub version: Version,
}

impl Default for Envelope {
    /// memberlist's defaults: no label, no keys, compression.
    fn default() -> Self {
        Self {
            label: "".into(),
            keyring: Keyring::default(),
            verify_incoming: true,
            verify_outgoing: true,
            compression: true,
            version: Version::default(),
        }
    }
}

impl Envelope {
    /// The key to encrypt with, where what is sent is to be encrypted.
    pub(crate) fn outgoing_key(&self) -> Option<&Key> {
        self.keyring.primary().filter(|_| self.verify_outgoing)
    }

    /// Whether what isn't encrypted is refused.
    pub(crate) fn requires_encryption(&self) -> bool {
        self.verify_incoming && self.keyring.primary().is_some()
    }

    /// The most bytes that a packet's wrapping adds to a compound: a machine that fills packets up to a size has to leave
    /// these out of it. A checksum counts whether it is added or not.
    pub fn packet_overhead(&self) -> usize {
        let label = self.label_bytes();
        let label = if label.is_empty() { 0 } else { 2 + label.len() };
        // Of no text at all, padding is a whole block: the most there is.
        let sealed = self.outgoing_key().map_or(0, |_| self.version.sealed_length(0));
        label + sealed + 5
    }

    /// The label as bytes; never more than a length byte can tell.
    pub(crate) fn label_bytes(&self) -> &[u8] {
        let label = self.label.as_bytes();
        label.get(..255).unwrap_or(label)
    }

    /// Appends the label's header, where there is a label.
    pub(crate) fn write_label(&self, out: &mut Vec<u8>) {
        let label = self.label_bytes();
        if let Ok(length @ 1..) = u8::try_from(label.len()) {
            out.extend_from_slice(&[kind::LABEL, length]);
            out.extend_from_slice(label);
        }
    }

    /// How many of the first bytes are the label's header; refuses a label that isn't this pool's. Truncated where more
    /// bytes have to come first.
    pub(crate) fn read_label(&self, bytes: &[u8]) -> Result<usize, Refused> {
        let label = match bytes {
            [] | [kind::LABEL] => return Err(Refused::Truncated),
            // An empty label has no header.
            [kind::LABEL, 0, ..] => return Err(Refused::Label),
            [kind::LABEL, length, rest @ ..] => {
                rest.get(..usize::from(*length)).ok_or(Refused::Truncated)?
            }
            _ => &[],
        };
        if label != self.label_bytes() {
            return Err(Refused::Label);
        }
        Ok(if label.is_empty() { 0 } else { 2 + label.len() })
    }

    /// Decrypts a packet's contents where they are. In a pool that doesn't insist, what no key opens is taken as it is.
    pub(crate) fn open<'a>(
        &self,
        associated: &[u8],
        bytes: &'a mut [u8],
    ) -> Result<&'a [u8], Refused> {
        if self.keyring.primary().is_none() {
            return Ok(bytes);
        }
        // The text lies between prefix and tag, but the borrow checker can't tell that `bytes` is free again after an
        // error: so the text is asked for by its length.
        match cipher::open(self.keyring.keys(), associated, bytes).map(<[u8]>::len) {
            Ok(length) => bytes.get(cipher::PREFIX..cipher::PREFIX + length).ok_or(Refused::Sealed),
            Err(_) if !self.verify_incoming => Ok(bytes),
            Err(refused) => Err(refused),
        }
    }
}
