#include "channel/registration.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/error.h"

/* A region that is registered with the device. */
typedef struct shared {
    const void *base;
    size_t bytes;
    void *handle;
    unsigned users;
    struct shared *next;
} shared_t;

struct tpv_net_registry {
    pthread_mutex_t mutex;
    shared_t *first; /* under mutex */
};

tpv_net_registry_t *tpv_net_registry_open(void) {
    tpv_net_registry_t *registry = calloc(1, sizeof *registry);
    if (registry) pthread_mutex_init(&registry->mutex, NULL);
    return registry;
}

void tpv_net_registry_close(tpv_net_registry_t *registry) {
    if (!registry) return;
    pthread_mutex_destroy(&registry->mutex);
    free(registry);
}

static tpv_status_t ask(const tpv_net_t *net, void *comm, const void *base, size_t bytes, void **handle) {
    /* The ABI has no const. */
    void *plain = (void *)(uintptr_t)base;
    *handle = NULL;
    return tpv_net_check(net, net->abi.regMr(&net->abi, comm, plain, bytes, NCCL_PTR_HOST, handle), "register memory");
}

/* The link to the region; to NULL when there is none. Under the mutex. */
static shared_t **find(tpv_net_registry_t *registry, const void *base, size_t bytes) {
    shared_t **link = &registry->first;
    while (*link && ((*link)->base != base || (*link)->bytes != bytes))
        link = &(*link)->next;
    return link;
}

static tpv_status_t share(const tpv_net_t *net, void *comm, const void *base, size_t bytes, void **handle) {
    shared_t *shared = *find(net->registry, base, bytes);
    if (!shared) {
        shared = calloc(1, sizeof *shared);
        if (!shared) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for one more registration");
        tpv_status_t status = ask(net, comm, base, bytes, &shared->handle);
        if (status != TPV_OK) {
            free(shared);
            return status;
        }
        shared->base = base;
        shared->bytes = bytes;
        shared->next = net->registry->first;
        net->registry->first = shared;
    }
    shared->users++;
    *handle = shared->handle;
    return TPV_OK;
}

tpv_status_t tpv_net_register(const tpv_net_t *net, void *comm, const void *base, size_t bytes,
                              tpv_registration_t *registration) {
    tpv_status_t status;
    if (net->properties.registers_for_device) {
        pthread_mutex_lock(&net->registry->mutex);
        status = share(net, comm, base, bytes, &registration->handle);
        pthread_mutex_unlock(&net->registry->mutex);
    } else {
        status = ask(net, comm, base, bytes, &registration->handle);
    }
    if (status != TPV_OK) return status;
    registration->base = base;
    registration->bytes = bytes;
    registration->held = true;
    return TPV_OK;
}

void tpv_net_deregister(const tpv_net_t *net, void *comm, tpv_registration_t *registration) {
    if (!registration->held) return;
    registration->held = false;
    if (!net->properties.registers_for_device) {
        net->abi.deregMr(comm, registration->handle);
        return;
    }
    pthread_mutex_lock(&net->registry->mutex);
    shared_t **link = find(net->registry, registration->base, registration->bytes), *shared = *link;
    if (--shared->users == 0) {
        *link = shared->next;
        net->abi.deregMr(comm, shared->handle);
        free(shared);
    }
    pthread_mutex_unlock(&net->registry->mutex);
}
