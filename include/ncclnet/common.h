/*
 * Our own statement of what all versions of NCCL's net-plugin ABI share. The only thing that plugin/ and src/ have in
 * common. Facts from NVIDIA/nccl: src/include/nccl_net.h, src/include/nccl_common.h, src/include/plugin/net/, checked
 * at v2.28.9 and v2.30.7; net_vN.h beside this file has what one version adds.
 */
#ifndef NCCLNET_COMMON_H
#define NCCLNET_COMMON_H

#include <stddef.h>
#include <stdint.h>

/* Result codes that a plugin may return (nccl.h; the same numbers since 2.3, ncclRemoteError since 2.12). */
typedef enum {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1,
    ncclSystemError = 2,
    ncclInternalError = 3,
    ncclInvalidArgument = 4,
    ncclInvalidUsage = 5,
    ncclRemoteError = 6,
} ncclResult_t;

/* nccl_common.h */
typedef enum {
    NCCL_LOG_NONE = 0,
    NCCL_LOG_VERSION = 1,
    NCCL_LOG_WARN = 2,
    NCCL_LOG_INFO = 3,
    NCCL_LOG_ABORT = 4,
    NCCL_LOG_TRACE = 5,
} ncclDebugLogLevel;

#define NCCL_INIT 0x1
#define NCCL_NET 0x10

typedef void (*ncclDebugLogger_t)(ncclDebugLogLevel level, unsigned long flags, const char *file, int line,
                                  const char *format, ...);

/* Since v10: a plugin may report events of its own to a profiler. */
typedef ncclResult_t (*ncclProfilerCallback_t)(void **event, int type, void *parent, int64_t plugin_id, void *data);

#define NCCL_NET_HANDLE_MAXSIZE 128 /* since 2.12 */
#define NCCL_NET_MAX_REQUESTS 32    /* in flight for each comm; since 2.19 */
#define NCCL_NET_MAX_DEVS_PER_NIC_V11 4
#define NCCL_NET_MAX_DEVS_PER_NIC_V12 8
#define NCCL_MAX_NET_SIZE_BYTES (UINT64_C(1) << 40) /* upper bound of maxP2pBytes */

#define NCCL_PTR_HOST 0x1
#define NCCL_PTR_CUDA 0x2
#define NCCL_PTR_DMABUF 0x4

#define NCCL_NET_DEVICE_HOST 0
#define NCCL_NET_DEVICE_INVALID_VERSION 0

/* irecv may find this in *request: the receiver does not need the completion (LL protocols, n == 1). */
#define NCCL_NET_OPTIONAL_RECV_COMPLETION ((void *)0x1)

/* Device offload is not ours: plugins that only serve the host never look inside. */
typedef struct ncclNetDeviceHandle ncclNetDeviceHandle_t;

#endif
