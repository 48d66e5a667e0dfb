/* The device table: filled by the first init, never shrunk, so that names stay valid as long as the plugin is loaded.
 */
#ifndef CORE_DEVICE_H
#define CORE_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "core/interface.h"
#include "ncclnet/common.h"

#define TPV_DEVICES_MAX 64

/* Counters of one device, any thread. A comm adds its own when it is closed. */
typedef struct {
    _Atomic uint64_t comms, messages_sent, messages_received, bytes_sent, bytes_received, comms_failed, strangers;
} tpv_device_stats_t;

/* All but `stats` is constant once it is in the table. */
typedef struct {
    const struct tpv_transport *transport;
    char *name;
    char *pci_path; /* NULL for a virtual device */
    uint64_t guid;
    tpv_interface_t interface; /* where it listens and connects from */
    int pointer_support;       /* NCCL_PTR_* */
    int registration_is_global;
    int speed;        /* Mb/s */
    bool speed_known; /* it was not made up */
    int port;
    int receives_max; /* of one irecv */
    size_t message_max;
    tpv_device_stats_t stats;
} tpv_device_t;

/* Fill the table if it is empty. ncclSystemError, logged, when there is no device. */
ncclResult_t tpv_devices_discover(void);

/* Only from a transport's `discover`; the table owns `device` from then on. False when the table is full. */
bool tpv_device_add(tpv_device_t *device);

int tpv_device_count(void);

/* NULL, logged, when `index` is out of range. */
tpv_device_t *tpv_device_get(int index);

/* One INFO line for each device that was used. */
void tpv_devices_log_stats(void);

#endif
