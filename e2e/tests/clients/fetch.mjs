// Gets URL so often, each time by a new connection, and prints how often it succeeded, or "refused".
import http from "node:http";

const tries = Number(process.argv[2]);
let good = 0;

function get(url) {
    return new Promise((resolve, reject) => {
        const options = { agent: false, autoSelectFamily: true, timeout: 10_000 };
        const request = http.get(url, options, (answer) => {
            let body = "";
            answer.on("data", (piece) => (body += piece));
            answer.on("end", () => resolve(body));
            answer.on("error", reject);
        });
        request.on("error", reject);
    });
}

for (let i = 0; i < tries; i++) {
    try {
        good += (await get(process.argv[3])) === "origin";
    } catch (error) {
        if (tries === 1 && error.code === "ECONNREFUSED") {
            console.log("refused");
            process.exit();
        }
        console.error(error);
    }
}
console.log(`${good} of ${tries}`);
