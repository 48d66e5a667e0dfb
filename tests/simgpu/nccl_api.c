#include "simgpu/nccl_api.h"

#include "simgpu/attach.h"
#include "simgpu/fatal.h"

#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

static void load(void *library, const char *name, void *pointer) {
    void *symbol = dlsym(library, name);
    if (!symbol) sim_fatal("libnccl has no %s", name);
    memcpy(pointer, &symbol, sizeof symbol);
}

const struct nccl *nccl_load(const char *path) {
    static struct nccl nccl;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) sim_fatal("cannot load %s: %s", path, dlerror());
    const char *problem;
    if (sim_attach(library, &problem)) sim_fatal("%s: %s", path, problem);
    int (*get_version)(int *);
    load(library, "ncclGetVersion", &get_version);
    get_version(&nccl.version);
#define LOAD(name) load(library, "nccl" #name, &nccl.name)
    LOAD(GetUniqueId);
    LOAD(CommInitRank);
    LOAD(CommSplit);
    LOAD(CommDestroy);
    LOAD(CommAbort);
    LOAD(CommGetAsyncError);
    LOAD(GetLastError);
    LOAD(GroupStart);
    LOAD(GroupEnd);
    LOAD(Send);
    LOAD(Recv);
    LOAD(AllReduce);
    LOAD(AllGather);
    LOAD(Broadcast);
#undef LOAD
    return &nccl;
}

bool nccl_reports_network_errors(const struct nccl *nccl) {
    return nccl->version >= 21900 && !(nccl->version >= 22600 && nccl->version < 22800);
}
