// Command snipctl is the command line of snipdb for users and operators. It is
// pure Go and talks HTTP only, through httpapi/client.
//
// Every flag can also be given by environment and by a YAML file (--config);
// a flag beats the environment, the environment beats the file. A flag of
// snipctl itself, such as --endpoints, is SNIPCTL_ENDPOINTS and the key
// "endpoints". A flag of a command has the command's name in front:
// "bench kv --clients" is SNIPCTL_BENCH_KV_CLIENTS, and in the file
//
//	bench:
//	  kv:
//	    clients: 64
//
// Exit codes:
//
//	0  done
//	1  failed: the request was refused, something was lost, a check failed
//	2  the command line, the environment or the file is wrong
//	3  there is no such collection, document, snippet or node
//	4  conflict: the revision is another one, or it exists already
//	5  unavailable: no node answered, or none can at present; try again
package main
