/* Prints the addresses of a name, one a line, as getaddrinfo of this libc finds them. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
	char text[INET6_ADDRSTRLEN];
	int err = argc == 2 ? getaddrinfo(argv[1], 0, &hints, &list) : EAI_NONAME;
	if (err) {
		fprintf(stderr, "%s\n", gai_strerror(err));
		return 1;
	}
	for (; list; list = list->ai_next) {
		void *addr = list->ai_family == AF_INET6 ? (void *)&((struct sockaddr_in6 *)list->ai_addr)->sin6_addr
							 : (void *)&((struct sockaddr_in *)list->ai_addr)->sin_addr;
		puts(inet_ntop(list->ai_family, addr, text, sizeof text));
	}
	return 0;
}
