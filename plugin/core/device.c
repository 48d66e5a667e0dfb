#include "core/device.h"

#include <inttypes.h>

#include "core/fork.h"
#include "core/log.h"
#include "core/transport.h"

/* Entries below `count` are constant; the release store of `count` publishes them. */
static tpv_device_t *table[TPV_DEVICES_MAX];
static _Atomic int count;

ncclResult_t tpv_devices_discover(void) {
    ncclResult_t result = ncclSuccess;
    tpv_setup_lock();
    if (tpv_device_count() == 0)
        for (int i = 0; tpv_transports[i] && result == ncclSuccess; i++)
            if (tpv_transports[i]->discover) result = tpv_transports[i]->discover();
    tpv_setup_unlock();
    if (result == ncclSuccess && tpv_device_count() == 0) {
        TPV_NET_WARN("found no network interface to use: see NCCL_SOCKET_IFNAME and NCCL_SOCKET_FAMILY");
        return ncclSystemError;
    }
    return result;
}

bool tpv_device_add(tpv_device_t *device) {
    int index = tpv_device_count();
    if (index == TPV_DEVICES_MAX) return false;
    table[index] = device;
    atomic_store_explicit(&count, index + 1, memory_order_release);
    return true;
}

int tpv_device_count(void) {
    return atomic_load_explicit(&count, memory_order_acquire);
}

tpv_device_t *tpv_device_get(int index) {
    int devices = tpv_device_count();
    if (index >= 0 && index < devices) return table[index];
    TPV_NET_WARN("there is no device %d: expected 0 to %d", index, devices - 1);
    return NULL;
}

void tpv_devices_log_stats(void) {
    for (int i = 0; i < tpv_device_count(); i++) {
        tpv_device_stats_t *stats = &table[i]->stats;
        if (atomic_load(&stats->comms) == 0 && atomic_load(&stats->strangers) == 0) continue;
        TPV_NET_INFO("%s %s: %" PRIu64 " comms closed (%" PRIu64 " failed), sent %" PRIu64 " messages with %" PRIu64
                     " bytes, received %" PRIu64 " with %" PRIu64 ", %" PRIu64 " strangers dropped",
                     table[i]->transport->name, table[i]->name, atomic_load(&stats->comms),
                     atomic_load(&stats->comms_failed), atomic_load(&stats->messages_sent),
                     atomic_load(&stats->bytes_sent), atomic_load(&stats->messages_received),
                     atomic_load(&stats->bytes_received), atomic_load(&stats->strangers));
    }
}
