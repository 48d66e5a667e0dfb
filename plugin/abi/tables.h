/*
 * What the tables of several ABI versions have in common. Each version is a struct of its own in NCCL, so the members
 * that mean the same are filled by the same macro, and the functions that have the same type are shared.
 */
#ifndef ABI_TABLES_H
#define ABI_TABLES_H

#include "abi/net.h"

/* ---- properties: what `since` adds to the one before ---- */

#define TPV_PROPERTIES_V6(device)                                                                                      \
    .name = (device)->name, .pciPath = (device)->pci_path, .guid = (device)->guid,                                     \
    .ptrSupport = (device)->pointer_support, .speed = (device)->speed, .port = (device)->port,                         \
    .maxComms = TPV_NET_COMMS_MAX, .maxRecvs = (device)->receives_max
#define TPV_PROPERTIES_V7(device)                                                                                      \
    TPV_PROPERTIES_V6(device), .netDeviceType = NCCL_NET_DEVICE_HOST,                                                  \
                               .netDeviceVersion = NCCL_NET_DEVICE_INVALID_VERSION
#define TPV_PROPERTIES_V8(device) TPV_PROPERTIES_V7(device), .regIsGlobal = (device)->registration_is_global
#define TPV_PROPERTIES_V9(device, index)                                                                               \
    TPV_PROPERTIES_V8(device), .vProps = {.ndevs = 1, .devs = {index}}, .maxP2pBytes = (device)->message_max,          \
                               .maxCollBytes = (device)->message_max
/* NCCL_NET_MULTI_REQUEST is defined in nccl_net.h since v2.28.3, but nothing in NCCL uses it: one at a time. */
#define TPV_PROPERTIES_V11(device, index) TPV_PROPERTIES_V9(device, index), .maxMultiRequestSize = 1
/* -1 is NCCL_NET_ID_UNDEF: nothing is known of rails and planes. */
#define TPV_PROPERTIES_V12(device, index) TPV_PROPERTIES_V11(device, index), .railId = -1, .planeId = -1

/* ---- calls: what is the same in all versions ----
 * Left NULL, as in NCCL's Socket transport (ncclNetSocket, src/transport/net_socket.cc at v2.30.7): regMrDmaBuf, which
 * is not called without NCCL_PTR_DMABUF; getDeviceMr and irecvConsumed, which are for device offload; makeVDevice, see
 * docs/plugin.md. */

#define TPV_CALLS                                                                                                      \
    .name = TPV_NET_NAME, .devices = tpv_net_devices, .deregMr = tpv_net_deregister, .iflush = tpv_net_iflush,         \
    .test = tpv_net_test, .closeSend = tpv_net_close, .closeRecv = tpv_net_close,                                      \
    .closeListen = tpv_net_close_listener

/* ---- calls of versions before contexts and size_t; an int size below zero is ncclInvalidArgument ---- */

ncclResult_t tpv_abi_v6_init(ncclDebugLogger_t logger);                                         /* v6 to v9 */
ncclResult_t tpv_abi_v6_listen(int device, void *handle, void **listener);                      /* v6 to v10 */
ncclResult_t tpv_abi_v6_regmr(void *comm, void *data, int size, int type, void **registration); /* v6, v7 */
ncclResult_t tpv_abi_v6_isend(void *comm, void *data, int size, int tag, void *registration,
                              void **request); /* v6 to v8 */
ncclResult_t tpv_abi_v6_irecv(void *comm, int count, void **data, int *sizes, int *tags, void **registrations,
                              void **request); /* v6 to v8 */
ncclResult_t tpv_abi_v7_connect(int device, void *handle, void **comm,
                                ncclNetDeviceHandle_t **device_comm); /* v7 to v9 */

#endif
