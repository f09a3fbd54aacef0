/* For sources that include the Windows header. */
#include <sidetrack/winsock.h>
