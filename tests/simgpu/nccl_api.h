/* The calls of NCCL that the tests make, found at run time, so that one program runs every release. Source of the
 * declarations: nccl.h of NCCL 2.18.3 to 2.30.7, where they are the same. */
#ifndef SIMGPU_NCCL_API_H
#define SIMGPU_NCCL_API_H

#include <stdbool.h>
#include <stddef.h>

typedef struct nccl_comm *nccl_comm_t;

typedef struct {
    char bytes[128];
} nccl_unique_id_t;

enum { NCCL_SUCCESS = 0, NCCL_REMOTE_ERROR = 6, NCCL_IN_PROGRESS = 7 }; /* ncclResult_t */
enum { NCCL_INT8 = 0, NCCL_UINT8 = 1, NCCL_INT32 = 2, NCCL_INT64 = 4, NCCL_FLOAT32 = 7, NCCL_FLOAT64 = 8 };
enum { NCCL_SUM = 0 };

struct nccl {
    int version; /* 22809 for 2.28.9 */
    int (*GetUniqueId)(nccl_unique_id_t *id);
    int (*CommInitRank)(nccl_comm_t *comm, int rank_count, nccl_unique_id_t id, int rank);
    int (*CommSplit)(nccl_comm_t comm, int color, int key, nccl_comm_t *part, void *config);
    int (*CommDestroy)(nccl_comm_t comm);
    int (*CommAbort)(nccl_comm_t comm);
    int (*CommGetAsyncError)(nccl_comm_t comm, int *error);
    const char *(*GetLastError)(nccl_comm_t comm);
    int (*GroupStart)(void);
    int (*GroupEnd)(void);
    int (*Send)(const void *buffer, size_t count, int type, int peer, nccl_comm_t comm, void *stream);
    int (*Recv)(void *buffer, size_t count, int type, int peer, nccl_comm_t comm, void *stream);
    int (*AllReduce)(const void *from, void *to, size_t count, int type, int op, nccl_comm_t comm, void *stream);
    int (*AllGather)(const void *from, void *to, size_t count, int type, nccl_comm_t comm, void *stream);
    int (*Broadcast)(const void *from, void *to, size_t count, int type, int root, nccl_comm_t comm, void *stream);
};

/* Loads the libnccl.so.2 at `path` into this process and attaches the simulated device to it. Ends the process with a
 * message when that fails. Call it once per process, before NCCL's environment variables may no longer change. */
const struct nccl *nccl_load(const char *path);

/* Whether ncclCommGetAsyncError tells of an error that the network returned. Releases before 2.19, and 2.26 and 2.27,
 * lose it: NVIDIA/nccl src/proxy.cc, progressOps() and ncclProxyProgress(), compared at every tag. */
bool nccl_reports_network_errors(const struct nccl *nccl);

#endif
