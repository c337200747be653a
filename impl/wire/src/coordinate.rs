//! The network coordinate that Serf adds to an ack's payload: a version byte 1, then the coordinate as a msgpack map.
//! Its rules are in `spec`; this is only its bytes.

use spec::serf::coordinate::{Coordinate, DIMENSIONS};

use crate::{
    Refused,
    msgpack::{Reader, Writer},
};

/// The version of the payload.
const VERSION: u8 = 1;

/// Takes apart the payload of an ack. Numbers that aren't finite are refused, since one of them would spread to
/// every coordinate that is computed with it.
pub fn decode(payload: &[u8]) -> Result<Coordinate, Refused> {
    let (&version, body) = payload.split_first().ok_or(Refused::Truncated)?;
    if version != VERSION {
        return Err(Refused::Unknown(version));
    }
    let mut found = 0;
    let mut coordinate =
        Coordinate { vec: [0.0; DIMENSIONS], error: 0.0, adjustment: 0.0, height: 0.0 };
    Reader::new(body).fields(|field, reader| {
        match field {
            b"Vec" => found = read_vec(reader, &mut coordinate.vec)?,
            b"Error" => coordinate.error = finite(reader)?,
            b"Adjustment" => coordinate.adjustment = finite(reader)?,
            b"Height" => coordinate.height = finite(reader)?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    if found == DIMENSIONS { Ok(coordinate) } else { Err(Refused::Range) }
}

/// The payload of an ack.
pub fn encode(coordinate: &Coordinate) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    let mut writer = Writer::new(&mut out);
    writer.plain(&[VERSION]).map(4);
    writer.text("Adjustment").f64(coordinate.adjustment).text("Error").f64(coordinate.error);
    writer.text("Height").f64(coordinate.height).text("Vec").list(DIMENSIONS);
    for value in coordinate.vec {
        writer.f64(value);
    }
    out
}

fn read_vec(reader: &mut Reader<'_>, vec: &mut [f64; DIMENSIONS]) -> Result<usize, Refused> {
    let n = usize::try_from(reader.list()?).map_err(|_| Refused::Range)?;
    for value in vec.get_mut(..n).ok_or(Refused::Range)? {
        *value = finite(reader)?;
    }
    Ok(n)
}

fn finite(reader: &mut Reader<'_>) -> Result<f64, Refused> {
    let value = reader.f64()?;
    if value.is_finite() { Ok(value) } else { Err(Refused::Range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Coordinate = Coordinate {
        vec: [0.1, -0.2, 0.3, 0.0, 1e-9, 5.0, -7.5, 0.25],
        error: 1.5,
        adjustment: -0.001,
        height: 1e-5,
    };

    #[test]
    fn a_coordinate_comes_back() {
        assert_eq!(decode(&encode(&SOME)), Ok(SOME));
    }

    #[test]
    fn what_is_not_finite_or_has_other_dimensions_is_refused() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut vec = SOME.vec;
            vec[3] = bad;
            assert_eq!(decode(&encode(&Coordinate { vec, ..SOME })), Err(Refused::Range));
            let bad = Coordinate { height: bad, ..SOME };
            assert_eq!(decode(&encode(&bad)), Err(Refused::Range));
        }
        assert_eq!(decode(&[1, 0x80]), Err(Refused::Range), "no dimensions at all");
        assert_eq!(decode(&[2, 0x80]), Err(Refused::Unknown(2)));
        assert_eq!(decode(&[]), Err(Refused::Truncated));
    }
}
