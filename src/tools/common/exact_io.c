#include "tools/common/exact_io.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/clock.h"
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

/* What has come of `size` bytes, at least one. */
static tpv_status_t read_some(int fd, void *data, size_t size, size_t *got) {
    ssize_t count;
    do
        count = recv(fd, data, size, 0);
    while (count < 0 && errno == EINTR);
    if (count < 0) return tpv_error_set_errno(TPV_ERR_PEER, errno, "cannot receive from the other process");
    if (count == 0) return tpv_error_set(TPV_ERR_PEER, "the other process is gone");
    *got += (size_t)count;
    return TPV_OK;
}

tpv_status_t tpv_exact_read(int fd, void *data, size_t size) {
    for (size_t got = 0; got < size;)
        TPV_TRY(read_some(fd, (char *)data + got, size - got, &got));
    return TPV_OK;
}

tpv_status_t tpv_exact_read_until(int fd, int stop, int64_t deadline, void *data, size_t size) {
    for (size_t got = 0; got < size;) {
        struct pollfd ready[] = {{.fd = fd, .events = POLLIN}, {.fd = stop, .events = POLLIN}};
        /* Rounded up, so that it is over then. */
        int64_t left = tpv_deadline_left(deadline) / TPV_NS_PER_MS + 1;
        int count = poll(ready, 2, left < INT_MAX ? (int)left : INT_MAX);
        if (count < 0 && errno != EINTR) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot poll");
        if (count > 0 && ready[1].revents) return tpv_error_set(TPV_ERR_CANCELLED, "asked to stop");
        if (count > 0) TPV_TRY(read_some(fd, (char *)data + got, size - got, &got));
        if (count <= 0 && tpv_deadline_left(deadline) <= 0)
            return tpv_error_set(TPV_ERR_DEADLINE, "no answer of the other process in time");
    }
    return TPV_OK;
}
