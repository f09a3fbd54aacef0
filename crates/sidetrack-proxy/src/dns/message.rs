//! Reads the parts of a message, one after the other.

use hickory_proto::op::{Header, MessageType, OpCode, Query};
use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::code::{DnsClass, DnsType};
use super::{DnsError, DnsQuestion, MESSAGE_SIZE_MAX, MalformedDns, QUESTIONS_MAX, name};

/// A message, read up to some point.
pub(super) struct MessageReader<'a> {
    pub(super) header: Header,
    bytes: &'a [u8],
    decoder: BinDecoder<'a>,
}

/// A record whose data are not parsed.
pub(super) struct RawRecord<'a> {
    pub(super) name: Name,
    pub(super) record_type: DnsType,
    pub(super) class: DnsClass,
    pub(super) ttl: u32,
    pub(super) data: &'a [u8],
    /// The whole message, since a name in the data may point out of them.
    message: &'a [u8],
    /// Positioned at the beginning of the data.
    decoder: BinDecoder<'a>,
}

impl<'a> MessageReader<'a> {
    /// Reads the header, and decides by it whether this is DNS and a message of the expected type.
    pub(super) fn open(bytes: &'a [u8], direction: MessageType) -> Result<Self, DnsError> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).map_err(|_| DnsError::NotDns)?;
        let questions = header.counts.queries;
        let no_question = questions == 0 && header.message_type == MessageType::Query;
        if matches!(header.op_code, OpCode::Unknown(_)) || questions > QUESTIONS_MAX || no_question
        {
            return Err(DnsError::NotDns);
        }
        if bytes.len() > MESSAGE_SIZE_MAX {
            return Err(MalformedDns::TooLong.into());
        }
        if header.message_type != direction {
            return Err(MalformedDns::Direction.into());
        }
        Ok(Self {
            header,
            bytes,
            decoder,
        })
    }

    /// Reads all questions, [`QUESTIONS_MAX`] at most.
    pub(super) fn questions(&mut self) -> Result<Vec<Query>, MalformedDns> {
        (0..self.header.counts.queries)
            .map(|_| {
                let name = name::read(self.bytes, &mut self.decoder)?;
                let mut question = Query::query(name, self.u16()?.into());
                question.set_query_class(self.u16()?.into());
                Ok(question)
            })
            .collect()
    }

    /// Reads the next record, of any section.
    pub(super) fn record(&mut self) -> Result<RawRecord<'a>, MalformedDns> {
        let name = name::read(self.bytes, &mut self.decoder)?;
        let record_type = DnsType(self.u16()?);
        let class = DnsClass(self.u16()?);
        let ttl = self
            .decoder
            .read_u32()
            .map_err(|_| MalformedDns::Truncated)?;
        let size = self.u16()?;
        let index = u16::try_from(self.decoder.index()).map_err(|_| MalformedDns::TooLong)?;
        let decoder = self.decoder.clone(index);
        let data = self.decoder.read_slice(size.into());
        Ok(RawRecord {
            name,
            record_type,
            class,
            ttl: ttl.unverified(),
            data: data.map_err(|_| MalformedDns::Truncated)?.unverified(),
            message: self.bytes,
            decoder,
        })
    }

    fn u16(&mut self) -> Result<u16, MalformedDns> {
        let read = self
            .decoder
            .read_u16()
            .map_err(|_| MalformedDns::Truncated)?;
        Ok(read.unverified())
    }
}

impl RawRecord<'_> {
    /// Reads the data as one name. Errors: [`MalformedDns::Data`], if more follows it.
    pub(super) fn data_as_name(mut self) -> Result<Name, MalformedDns> {
        let end = self.decoder.index() + self.data.len();
        let name = name::read(self.message, &mut self.decoder)?;
        if self.decoder.index() == end {
            Ok(name)
        } else {
            Err(MalformedDns::Data)
        }
    }
}

impl From<&Query> for DnsQuestion {
    fn from(query: &Query) -> Self {
        Self {
            name: name::text(query.name()),
            record_type: DnsType(query.query_type().into()),
            class: DnsClass(query.query_class().into()),
        }
    }
}
