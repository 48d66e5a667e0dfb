#include "core/comm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/fork.h"
#include "core/log.h"
#include "core/socket.h"

void tpv_comm_start(tpv_comm_t *comm, const tpv_comm_ops_t *ops, bool sends, tpv_device_t *device, int fd) {
    comm->ops = ops;
    comm->device = device;
    comm->fork_generation = tpv_fork_generation();
    comm->sends = sends;
    comm->broken.comm = comm;
    atomic_store_explicit(&comm->mover, comm, memory_order_release);
    pthread_mutex_init(&comm->lock, NULL);
    /* Kept for messages: a lost connection does not know its peer any more. */
    tpv_socket_names(fd, &comm->local, &comm->peer);
}

void tpv_comm_end(tpv_comm_t *comm) {
    tpv_device_stats_t *stats = &comm->device->stats;
    /* What it became has accounted for itself. */
    if (atomic_load_explicit(&comm->mover, memory_order_relaxed) == comm) {
        atomic_fetch_add_explicit(&stats->comms, 1, memory_order_relaxed);
        if (tpv_comm_failed(comm)) atomic_fetch_add_explicit(&stats->comms_failed, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(comm->sends ? &stats->messages_sent : &stats->messages_received, comm->messages,
                                  memory_order_relaxed);
        atomic_fetch_add_explicit(comm->sends ? &stats->bytes_sent : &stats->bytes_received, comm->bytes,
                                  memory_order_relaxed);
    }
    for (tpv_registration_t *registration = comm->registrations, *next; registration; registration = next) {
        next = registration->next;
        free(registration);
    }
    /* Another thread of the parent may have held a forked child's copy. */
    if (tpv_comm_own(comm)) pthread_mutex_destroy(&comm->lock);
    free(comm);
}

void tpv_comm_become(tpv_comm_t *comm, tpv_comm_t *made) {
    pthread_mutex_lock(&comm->lock);
    atomic_store_explicit(&comm->mover, made, memory_order_release);
    pthread_mutex_unlock(&comm->lock);
}

bool tpv_comm_own(const tpv_comm_t *comm) {
    return comm->fork_generation == tpv_fork_generation();
}

ncclResult_t tpv_comm_fail(tpv_comm_t *comm, ncclResult_t result, const char *format, ...) {
    ncclResult_t before = ncclSuccess;
    if (!atomic_compare_exchange_strong_explicit(&comm->failure, &before, result, memory_order_acq_rel,
                                                 memory_order_acquire))
        return before;
    char text[512], local[TPV_ADDRESS_TEXT], peer[TPV_ADDRESS_TEXT], process[32] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (comm->peer_process) snprintf(process, sizeof process, ", process %d", comm->peer_process);
    TPV_NET_WARN("%s %s%s (here %s at %s): %s", comm->sends ? "sending to" : "receiving from",
                 tpv_address_print(&comm->peer, peer), process, comm->device->name,
                 tpv_address_print(&comm->local, local), text);
    return result;
}

ncclResult_t tpv_comm_fail_errno(tpv_comm_t *comm, const char *call, int error_number) {
    if (error_number == EFAULT) return tpv_comm_fail_data(comm, call);
    if (tpv_socket_errno_is_remote(error_number))
        return tpv_comm_fail(comm, ncclRemoteError, "the peer is gone: %s: %s", call, strerror(error_number));
    return tpv_comm_fail(comm, ncclSystemError, "%s: %s", call, strerror(error_number));
}

ncclResult_t tpv_comm_fail_data(tpv_comm_t *comm, const char *call) {
    return tpv_comm_fail(comm, ncclSystemError, "%s: the data is not accessible: was it freed, or its file truncated?",
                         call);
}

ncclResult_t tpv_comm_fail_closed(tpv_comm_t *comm) {
    return tpv_comm_fail(comm, ncclRemoteError, "the peer closed the connection");
}

ncclResult_t tpv_comm_fail_long(tpv_comm_t *comm, size_t size) {
    return tpv_comm_fail(comm, ncclInvalidUsage, "a message of %zu bytes is too long: expected %llu at most", size,
                         (unsigned long long)TPV_MESSAGE_MAX);
}

ncclResult_t tpv_comm_register(tpv_comm_t *comm, void *data, size_t size, int type, void **registration) {
    *registration = NULL;
    if (!(comm->device->pointer_support & type)) {
        TPV_NET_WARN("regMr: %s moves no memory of type %d (expected one of the bits of %d)", comm->device->name, type,
                     comm->device->pointer_support);
        return ncclInvalidUsage;
    }
    tpv_registration_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    made->data = data;
    made->size = size;
    pthread_mutex_lock(&comm->lock);
    made->next = comm->registrations;
    comm->registrations = made;
    pthread_mutex_unlock(&comm->lock);
    *registration = made;
    return ncclSuccess;
}

void tpv_comm_deregister(tpv_comm_t *comm, tpv_registration_t *registration) {
    if (!registration || !tpv_comm_own(comm)) return;
    pthread_mutex_lock(&comm->lock);
    tpv_registration_t **link = &comm->registrations;
    while (*link && *link != registration)
        link = &(*link)->next;
    bool found = *link != NULL;
    if (found) {
        tpv_comm_t *mover = atomic_load_explicit(&comm->mover, memory_order_acquire);
        if (mover->ops->deregister_memory) mover->ops->deregister_memory(mover, registration);
        *link = registration->next;
    }
    pthread_mutex_unlock(&comm->lock);
    if (found) free(registration);
}
