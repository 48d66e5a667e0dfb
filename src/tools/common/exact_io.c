#include "tools/common/exact_io.h"

#include <errno.h>
#include <sys/socket.h>

#include "base/error.h"

tpv_status_t tpv_exact_write(int fd, const void *data, size_t size) {
    for (size_t gone = 0; gone < size;) {
        ssize_t count = send(fd, (const char *)data + gone, size - gone, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return tpv_error_set_errno(TPV_ERR_PEER, errno, "cannot send to the other process");
        gone += (size_t)count;
    }
    return TPV_OK;
}

tpv_status_t tpv_exact_read(int fd, void *data, size_t size) {
    for (size_t got = 0; got < size;) {
        ssize_t count = recv(fd, (char *)data + got, size - got, 0);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return tpv_error_set_errno(TPV_ERR_PEER, errno, "cannot receive from the other process");
        if (count == 0) return tpv_error_set(TPV_ERR_PEER, "the other process is gone");
        got += (size_t)count;
    }
    return TPV_OK;
}
