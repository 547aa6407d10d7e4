// A network plugin that only says what it can, to try plugin installation.
package main

import (
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	const socket = "/run/docker/plugins/weft.sock"
	if err := os.MkdirAll("/run/docker/plugins", 0o755); err != nil {
		log.Fatal(err)
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	log.Print("serving, word is ", os.Getenv("WORD"))
	mux := http.NewServeMux()
	mux.HandleFunc("/Plugin.Activate", answer(`{"Implements":["NetworkDriver"]}`))
	mux.HandleFunc("/NetworkDriver.GetCapabilities", answer(`{"Scope":"local"}`))
	mux.HandleFunc("/", answer(`{}`))
	log.Fatal(http.Serve(l, mux))
}

func answer(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
}
