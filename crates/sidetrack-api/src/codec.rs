//! The codec of the API's calls. It counts the parts of a request before it decodes them, so that a
//! small request cannot become a large one in memory.

use prost::bytes::Buf;
use prost::{Message, Name};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::count;

/// Encodes messages of the type `T`, and decodes messages of the type `U` after it has counted their
/// parts. The generated code of [`v1`](crate::v1) uses it for every call.
#[derive(Clone, Debug)]
pub struct CountedCodec<T, U>(ProstCodec<T, U>);

/// Decodes messages of one type, after it has counted their parts.
#[derive(Clone, Debug)]
pub struct CountedDecoder<U>(ProstDecoder<U>);

impl<T, U> Default for CountedCodec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
    }
}

impl<T, U> Codec for CountedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = CountedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CountedDecoder(self.0.decoder())
    }
}

impl<U: Message + Name + Default> Decoder for CountedDecoder<U> {
    type Item = U;
    type Error = Status;

    /// Errors: those of [`count::check`]; INVALID_ARGUMENT if the bytes are not a message of the
    /// type.
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The whole message is in one buffer, so this does not copy it.
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        count::check::<U>(&bytes)?;
        let decoded = U::decode(bytes);
        decoded
            .map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}
