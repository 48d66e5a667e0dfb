/* ncclNet_v6: NCCL 2.13.4 to 2.18.6 use it, later ones still load it (src/include/nccl_net.h at v2.18.6,
 * src/include/plugin/net/net_v6.h at v2.30.7). The oldest version that NCCL 2.30 loads. */
#ifndef NCCLNET_NET_V6_H
#define NCCLNET_NET_V6_H

#include "ncclnet/common.h"

typedef struct {
    char *name;    /* unique among devices; lives as long as the plugin */
    char *pciPath; /* real path in /sys, or NULL for a virtual device */
    uint64_t guid;
    int ptrSupport;
    int speed; /* Mb/s */
    int port;
    float latency; /* us */
    int maxComms;
    int maxRecvs;
} ncclNetProperties_v6_t;

typedef struct {
    const char *name;
    ncclResult_t (*init)(ncclDebugLogger_t log);
    ncclResult_t (*devices)(int *count);
    ncclResult_t (*getProperties)(int dev, ncclNetProperties_v6_t *props);
    ncclResult_t (*listen)(int dev, void *handle, void **listenComm);
    ncclResult_t (*connect)(int dev, void *handle, void **sendComm);
    ncclResult_t (*accept)(void *listenComm, void **recvComm);
    ncclResult_t (*regMr)(void *comm, void *data, int size, int type, void **mhandle);
    ncclResult_t (*regMrDmaBuf)(void *comm, void *data, size_t size, int type, uint64_t offset, int fd, void **mhandle);
    ncclResult_t (*deregMr)(void *comm, void *mhandle);
    ncclResult_t (*isend)(void *sendComm, void *data, int size, int tag, void *mhandle, void **request);
    ncclResult_t (*irecv)(void *recvComm, int n, void **data, int *sizes, int *tags, void **mhandles, void **request);
    ncclResult_t (*iflush)(void *recvComm, int n, void **data, int *sizes, void **mhandles, void **request);
    ncclResult_t (*test)(void *request, int *done, int *sizes);
    ncclResult_t (*closeSend)(void *sendComm);
    ncclResult_t (*closeRecv)(void *recvComm);
    ncclResult_t (*closeListen)(void *listenComm);
} ncclNet_v6_t;

#endif
