#include <sdic/sdic.h>
#include <string.h>
int main(void) { return strcmp(sdic_version(), SDIC_VERSION) == 0 && sdic_open(NULL, NULL, NULL) == SDIC_ERROR_ARGUMENT ? 0 : 1; }
