// What mediasoup's worker asks of libsrtp 3, for which there is no release yet, on top of libsrtp 2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <srtp.h>

inline srtp_err_status_t srtp_stream_remove(srtp_t session, std::uint32_t ssrc)
{
	return srtp_remove_stream(session, ssrc);
}

template<srtp_err_status_t (*Call)(srtp_t, void*, int*)>
inline srtp_err_status_t with_size(srtp_t session, void* data, std::size_t* size)
{
	int length = static_cast<int>(*size);
	const srtp_err_status_t status = Call(session, data, &length);
	*size = static_cast<std::size_t>(length);
	return status;
}

inline srtp_err_status_t srtp_protect(srtp_t session, void* data, std::size_t* size)
{
	return with_size<::srtp_protect>(session, data, size);
}

inline srtp_err_status_t srtp_unprotect(srtp_t session, void* data, std::size_t* size)
{
	return with_size<::srtp_unprotect>(session, data, size);
}

inline srtp_err_status_t srtp_protect_rtcp(srtp_t session, void* data, std::size_t* size)
{
	return with_size<::srtp_protect_rtcp>(session, data, size);
}

inline srtp_err_status_t srtp_unprotect_rtcp(srtp_t session, void* data, std::size_t* size)
{
	return with_size<::srtp_unprotect_rtcp>(session, data, size);
}
