#ifndef CLIENT_SOURCE_H
#define CLIENT_SOURCE_H

#include "client/http.h"
#include "tpview/fetch.h"

struct tpv_source {
    tpv_http_t *http;
};

#endif
