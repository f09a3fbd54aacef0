// Gets URL so often, each time by a new connection, and prints how often it succeeded, or "refused".
package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

func main() {
	tries, _ := strconv.Atoi(os.Args[1])
	good := 0
	client := http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true},
	}
	for i := 0; i < tries; i++ {
		answer, err := client.Get(os.Args[2])
		if err == nil {
			var body []byte
			body, err = io.ReadAll(answer.Body)
			answer.Body.Close()
			if string(body) == "origin" {
				good++
			}
		}
		if errors.Is(err, syscall.ECONNREFUSED) && tries == 1 {
			fmt.Println("refused")
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	fmt.Printf("%d of %d\n", good, tries)
}
